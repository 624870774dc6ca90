"""The benches measure what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learned import Learned, frechet
from spectra import Radial
from timing import STAGES
from torch import Tensor, nn
from vmaf import vmaf

from worker.demo import SAMPLE
from worker.measures import warp_error, warp_errors
from worker.solver.lowpass import gaussian_lowpass
from worker.video import read_clip

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return read_clip(SAMPLE, 3).frames.float()


def test_quality_runs_and_draws(tmp_path: Path) -> None:
    stated = ["--frames", "2", "--tasks", "super_resolution_x4", "--plus", "super_resolution_x4"]
    command = [sys.executable, "bench/quality.py", str(SAMPLE), *stated, "--figures", str(tmp_path)]
    done = subprocess.run([*command, "--show", "tasks", "noise", "spectrum"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| sample | super_resolution_x4")]
    given, data, full = float(rows[0][2]), float(rows[0][4]), float(rows[0][5])
    assert given < full < data + 1 < given + 5
    assert [row[2] for row in rows[1:]] == ["shared", "independent"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.png", "spectrum_super_resolution_x4.png"]


def test_speed_compares_like_with_like(tmp_path: Path) -> None:
    """The published arrangement, and the same arithmetic in ours, give the same clip by other operations."""
    report = tmp_path / "speed.json"
    stated = ["--size", "48x64", "--frames", "2", "--rounds", "1", "--tasks", "deblur_plus", "--json", str(report)]
    done = subprocess.run([sys.executable, "bench/speed.py", *stated], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["deblur_plus, 2 frames"]
    assert found["same"]["psnr_to_published"] > 60
    assert found["published"]["tflop"]["all"] > 1.5 * found["same"]["tflop"]["all"] > 0
    assert found["published"]["tflop"]["denoise"] == pytest.approx(2 * found["same"]["tflop"]["denoise"], rel=1e-3)
    assert found["published"]["psnr"] < found["ours"]["psnr"]
    for of in found.values():
        assert of["seconds"]["all"] == pytest.approx(sum(of["seconds"][stage] for stage in STAGES), rel=1e-6)


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


# The networks of LPIPS and FVD are handed around in this form, which torch itself has given up.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_learned_measures_are_taken_where_their_networks_are(clip: Tensor, tmp_path: Path) -> None:
    for name, module in (("lpips.pt", Distance()), ("fvd.pt", Features())):
        torch.jit.script(module).save(str(tmp_path / name))  # type: ignore[no-untyped-call]
    learned, none = Learned(tmp_path / "lpips.pt", tmp_path / "fvd.pt"), Learned(None, None)
    assert learned.lpips(clip, clip + 0.1) == pytest.approx(0.2, rel=1e-4)
    assert learned.fvd([clip, clip * 0.5], [clip, clip]) > 0.001  # type: ignore[operator]
    assert learned.fvd([clip], [clip]) is None
    assert none.lpips(clip, clip) is none.fvd([clip, clip], [clip, clip]) is None


def test_white_noise_has_a_flat_spectrum() -> None:
    noise = 2 / 255 * torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    curve = Radial(96, 128).rms(noise)
    assert all(value == pytest.approx(1, rel=0.25) for value in curve[2:])
