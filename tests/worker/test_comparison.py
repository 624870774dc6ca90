"""What a simulation says of its result is what whole clips, held side by side, say."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import worker.vmaf
from tests.processes import alive, descendants, wait_until
from worker.comparison import WINDOW, Comparison
from worker.demo import SAMPLE
from worker.learned import Learned, frechet
from worker.measures import psnr, ssim, warp_error, warp_errors
from worker.solver.lowpass import gaussian_lowpass
from worker.video import read_clip
from worker.vmaf import Vmaf, vmaf

# The networks of LPIPS and FVD are handed around as TorchScript, which torch itself has given up.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Values = dict[str, float]


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return read_clip(SAMPLE, 5).frames.float()


@pytest.fixture(scope="module")
def blurred(clip: Tensor) -> Tensor:
    return gaussian_lowpass(clip, 1.0)


def compared(
    restored: Tensor, lifted: Tensor, truth: Tensor, cuts: tuple[int, ...] = (), learned: Learned | None = None
) -> Values:
    comparison = Comparison(learned or Learned())
    for n, frames in enumerate(zip(restored, lifted, truth, strict=True)):
        if n in cuts:
            comparison.cut()
        comparison.add(*frames)
    return comparison.values()


def test_frame_by_frame_is_as_whole_clips(clip: Tensor, blurred: Tensor) -> None:
    more = gaussian_lowpass(clip, 2.0)
    found = compared(blurred, more, clip)
    for name, x in (("", blurred), ("_before", more)):
        assert found[f"psnr{name}"] == pytest.approx(psnr(x, clip), abs=1e-3)
        assert found[f"ssim{name}"] == pytest.approx(ssim(x, clip), abs=1e-5)
        assert found[f"vmaf{name}"] == pytest.approx(vmaf(x, clip), abs=1e-3)
        assert found[f"warp_error{name}"] == pytest.approx(warp_errors(x, clip), abs=1e-6)
    assert found["warp_error_truth"] == pytest.approx(warp_errors(clip, clip), abs=1e-6)
    assert {name for name in found if name.startswith(("lpips", "fvd"))} == set()


def test_nothing_is_moved_across_a_cut(clip: Tensor, blurred: Tensor) -> None:
    joined, other = torch.cat([clip[:3], clip[:3].flip(-1)]), torch.cat([blurred[:3], blurred[:3].flip(-1)])
    apart, missed = (compared(other, other, joined, cuts)["warp_error"] for cuts in ((3,), ()))
    assert apart == pytest.approx(compared(blurred[:3], blurred[:3], clip[:3])["warp_error"], rel=0.02)
    assert missed > 1.2 * apart


def test_frames_too_small_for_a_measure_go_without_it(clip: Tensor) -> None:
    tiny = clip[..., :24, :24]
    assert "vmaf" not in compared(tiny, tiny, tiny)
    assert "warp_error" not in compared(clip[:1], clip[:1], clip[:1])


def test_where_ffmpeg_does_not_run_all_else_is_measured(clip: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    found = compared(clip, clip, clip)
    assert "vmaf" not in found
    assert found["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 25])
def test_vmaf_in_chunks_is_that_of_the_whole(
    clip: Tensor, blurred: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.vmaf, "CHUNK", chunk)
    chunks = Vmaf()
    for frame, truth in zip(blurred, clip, strict=True):
        chunks.add(frame, truth)
    assert chunks.value() == pytest.approx(vmaf(blurred, clip), abs=1e-6)


def test_vmaf_falls_with_blur(clip: Tensor) -> None:
    assert vmaf(clip, clip) > 95
    assert 40 < vmaf(gaussian_lowpass(clip, 1.0), clip) < 90


def test_warp_error_is_the_noise_of_both_frames(clip: Tensor) -> None:
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    assert warp_errors(clip, clip) < 0.012
    assert warp_errors(clip + 0.05 * noise, clip) == pytest.approx(0.05 * 2**0.5, rel=0.1)  # less, as moving smooths


def test_warp_error_follows_motion_and_knows_where_there_is_none(clip: Tensor) -> None:
    moved = clip[0].roll(4, dims=-1)
    assert warp_error(clip[0], moved, (clip[0], moved)) < 0.3 * float((clip[0] - moved).square().mean().sqrt())
    tiny = clip[0, :, :8, :8]
    assert warp_error(tiny, tiny, (tiny, tiny)) != warp_error(tiny, tiny, (tiny, tiny))  # NaN


def test_frechet_distance_of_normal_features() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 for independent features."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5000, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    scaled = other * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet(one, scaled) == pytest.approx(1 + 1 + 4, rel=0.05)
    assert abs(frechet(one, one)) < 1e-9


class Distance(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean((1, 2, 3))


class Features(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips.mean((2, 3, 4))


@pytest.fixture
def learned(tmp_path: Path) -> Learned:
    for name, module in (("lpips", Distance()), ("fvd", Features())):
        torch.jit.script(module).save(str(tmp_path / name))  # type: ignore[no-untyped-call]
    return Learned(tmp_path / "lpips", tmp_path / "fvd")


def test_learned_measures_are_taken_where_their_networks_are(clip: Tensor, learned: Learned) -> None:
    none = Learned()
    assert learned.lpips(clip, clip + 0.1) == pytest.approx(0.2, rel=1e-4)
    assert learned.fvd([clip, clip * 0.5], [clip, clip]) > 0.001  # type: ignore[operator]
    assert learned.fvd([clip], [clip]) is None
    assert none.lpips(clip, clip) is none.fvd([clip, clip], [clip, clip]) is None


def test_a_simulation_has_them_too(clip: Tensor, blurred: Tensor, learned: Learned) -> None:
    """FVD of as many windows of 16 frames as there are: of one there is none."""
    truth, x = (torch.cat([y, y.flip(0)]).repeat(4, 1, 1, 1)[: 2 * WINDOW] for y in (clip, blurred))
    x = x * torch.linspace(0.5, 1, len(x)).view(-1, 1, 1, 1)
    found = compared(x, truth, truth, learned=learned)
    assert found["lpips"] == pytest.approx(float((2 * (x - truth)).abs().mean()), rel=1e-4)
    windows = [(clip[:WINDOW], clip[WINDOW:]) for clip in (x, truth)]
    assert found["fvd"] == pytest.approx(learned.fvd(*windows), rel=1e-6)
    assert found["fvd"] > 0.001
    assert found["lpips_before"] == 0
    assert abs(found["fvd_before"]) < 1e-9
    assert "fvd" not in compared(x[:WINDOW], truth[:WINDOW], truth[:WINDOW], learned=learned)


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "lpips.pt").write_text("not a network")
    with pytest.raises(ValueError, match=r"lpips\.pt is no TorchScript"):
        Learned(tmp_path / "lpips.pt")
    with pytest.raises(ValueError, match=r"fvd\.pt is no TorchScript"):
        Learned(fvd=tmp_path / "fvd.pt")


HOLDING = """
import torch
from worker.vmaf import vmaf
vmaf(*torch.rand(2, 150, 3, 512, 512))
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up there")
def test_ffmpeg_does_not_outlive_a_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING]) as process:
        try:
            wait_until(lambda: descendants(process.pid))
            (ffmpeg,) = descendants(process.pid)
            assert b"ffmpeg" in Path(f"/proc/{ffmpeg}/cmdline").read_bytes()
        finally:
            process.kill()
    wait_until(lambda: not alive(ffmpeg), 10)
