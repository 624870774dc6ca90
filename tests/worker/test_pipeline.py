"""Whole clips from file to files: long ones, and ones with cuts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.restoration import Restoration
from tests import media
from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.measures import psnr
from worker.outcome import Outcome
from worker.pipeline import Pipeline
from worker.scenes import scan
from worker.solve import TILE_PIXELS
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.stages import Stage
from worker.video import Clip, read_clip

CRF = 0


class Follower:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.total = self.denoised = 0

    def check(self) -> None:
        pass

    def measured(self, stage: str, frames: int) -> None:
        pass

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        self.total = frames * steps

    def resumed(self, frames: int, inversions: int, steps: int, spent: dict[str, float]) -> None:
        self.denoised += frames * steps

    def spent(self) -> dict[str, float]:
        return {}

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        self.denoised += frames if stage == "denoise" else 0


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


@pytest.fixture
def run(prior: DiffusersPrior, tmp_path: Path) -> Run:
    def run(
        source: Path,
        mask: Path | None = None,
        part_frames: int = 25,
        tile_pixels: int = TILE_PIXELS,
        model: DiffusersPrior = prior,
        **wanted: Any,
    ) -> Outcome:
        wanted = {"output": {"crf": CRF}, "solver": {"steps": 10, "tau": 0.2}} | wanted
        follower = Follower()
        directory = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        outcome = Pipeline(
            model,
            Restoration.model_validate(wanted),
            source,
            scan(source),
            mask,
            None,
            micro_batch=4,
            part_frames=part_frames,
            tile_pixels=tile_pixels,
            follower=follower,
        ).run(directory)
        assert follower.denoised == follower.total > 0
        return outcome

    return run


def small(clip: Clip, frames: int = 25) -> Tensor:
    """(T, 3, 40, 64)."""
    return Downsample(4).A(clip.frames[:frames].float())


def written(path: Path, frames: Tensor, **changes: Any) -> Path:
    like = replace(read_clip(SAMPLE, 1), **changes)
    write_clip(path, frames, like, pts=[512 * n for n in range(len(frames))], crf=CRF)
    return path


def output(outcome: Outcome) -> Tensor:
    return read_clip(outcome.files["output"]).frames.float()


def still(frames: int, width: int = 64, height: int = 40) -> Tensor:
    """Another scene than the sample's."""
    return torch.stack([torch.from_numpy(media.picture(width, height, t)) for t in range(frames)]).float()


@pytest.mark.parametrize(
    "degradation",
    [
        [{"kind": "gaussian_blur", "sigma": 1}],
        [{"kind": "temporal_average", "window": 3}],
        [{"kind": "temporal_downsample", "factor": 2}],
    ],
    ids=["blur", "average", "exposure"],
)
def test_two_joined_clips_come_out_as_each_alone(run: Run, tmp_path: Path, degradation: list[dict[str, Any]]) -> None:
    """The same pixels, but for what H.264 makes of them at other places of a file."""
    one, other = small(read_clip(SAMPLE), 8), still(7)
    joined = run(written(tmp_path / "joined.mp4", torch.cat([one, other])), degradation=degradation)
    alone = [run(written(tmp_path / f"{n}.mp4", x), degradation=degradation) for n, x in enumerate((one, other))]
    assert [scene["frames"] for scene in joined.scenes] == [[0, 8], [8, 15]]
    expected = torch.cat([output(outcome) for outcome in alone])
    assert output(joined).shape == expected.shape
    assert psnr(output(joined), expected) > 50
    assert joined.frames == sum(outcome.frames for outcome in alone)


def test_where_nothing_mixes_frames_parts_do_not_overlap_and_change_nothing(run: Run, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mp4", small(read_clip(SAMPLE)))
    stated = {"degradation": [{"kind": "gaussian_blur", "sigma": 1.5}], "simulate": True, "noise_sigma": 0.01}
    whole, parts = (run(source, part_frames=n, **stated) for n in (25, 10))
    assert parts.scenes[0]["parts"] == 3
    assert psnr(output(parts), output(whole)) > 60


def test_a_long_clip_in_parts_is_as_good_as_whole(run: Run, tmp_path: Path) -> None:
    truth = small(read_clip(SAMPLE))
    source = written(tmp_path / "in.mp4", truth)
    stated = {"degradation": [{"kind": "temporal_average", "window": 3}, {"kind": "gaussian_blur", "sigma": 1.5}]}
    whole = run(source, simulate=True, noise_sigma=0.01, **stated)
    parts = run(source, simulate=True, noise_sigma=0.01, part_frames=10, **stated)
    assert [scene["parts"] for scene in whole.scenes] == [1]
    assert parts.scenes[0]["parts"] > 2
    assert parts.frames == whole.frames == 25
    gained = parts.compared["psnr"] - whole.compared["psnr"]
    assert -0.05 < gained < 0.2  # where parts overlap the result is a mean of two, which may gain a bit
    apart = psnr(output(parts), output(whole))
    assert apart > whole.compared["psnr"] + 12  # they differ by a quarter of what they are off, or less
    assert parts.compared["psnr"] > parts.compared["psnr_before"] + 1
    assert parts.compared["psnr_before"] == pytest.approx(whole.compared["psnr_before"], abs=0.05)
    assert parts.residual == pytest.approx(whole.residual, rel=0.1)
    assert psnr(output(parts), read_clip(source).frames) == pytest.approx(parts.compared["psnr"], abs=0.2)


def test_seams_between_parts_do_not_show(run: Run, tmp_path: Path) -> None:
    """From frame to frame the result changes no more at a seam than elsewhere."""
    truth = small(read_clip(SAMPLE))
    source = written(tmp_path / "in.mp4", truth)
    whole, parts = (
        run(source, simulate=True, degradation=[{"kind": "gaussian_blur", "sigma": 1.5}], part_frames=n)
        for n in (25, 8)
    )
    steps = [(output(outcome) - truth).diff(dim=0).square().mean((1, 2, 3)) for outcome in (whole, parts)]
    assert steps[1].max() < 1.5 * steps[0].max()


def test_a_moving_mask_goes_through_parts_and_cuts(run: Run, tmp_path: Path) -> None:
    frames = torch.cat([small(read_clip(SAMPLE), 14), still(8)])
    known = torch.ones(22, 3, 40, 64)
    for n in range(22):
        known[n, :, 10:20, 2 * n : 2 * n + 10] = 0
    mask = tmp_path / "mask.mp4"
    like = read_clip(SAMPLE, 1)
    write_clip(mask, known, like, pts=[512 * n for n in range(22)], crf=0, full_chroma=True)
    source = tmp_path / "holed.mp4"
    write_clip(source, frames * known, like, pts=[512 * n for n in range(22)], crf=0, full_chroma=True)
    outcome = run(source, mask, part_frames=8, task="inpaint")
    assert [scene["frames"] for scene in outcome.scenes] == [[0, 14], [14, 22]]
    assert psnr(output(outcome), frames) > 30


def test_a_simulated_moving_mask_is_the_same_in_every_part(run: Run, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mp4", small(read_clip(SAMPLE), 16))
    stated = {"simulate": True, "degradation": [{"kind": "mask", "known": 0.7, "moving": True}]}
    whole, parts = (run(source, part_frames=n, **stated) for n in (25, 9))
    assert parts.compared["psnr_before"] == pytest.approx(whole.compared["psnr_before"], abs=1e-3)
    assert parts.compared["psnr"] > parts.compared["psnr_before"]


def test_valid_averages_tell_of_frames_beyond_the_clip_but_not_of_those_beyond_a_cut(run: Run, tmp_path: Path) -> None:
    stated = [{"kind": "temporal_average", "window": 3, "boundary": "valid"}]
    alone = run(written(tmp_path / "alone.mp4", small(read_clip(SAMPLE), 6)), degradation=stated)
    assert alone.frames == 8
    both = torch.cat([small(read_clip(SAMPLE), 6), still(5)])
    joined = run(written(tmp_path / "joined.mp4", both), degradation=stated)
    assert len(joined.scenes) == 2
    assert joined.frames == 6 + 5 + 2
    times = read_clip(joined.files["output"]).pts
    assert times == [512 * n for n in range(13)]


def test_the_published_solver_goes_through_here_too(run: Run, tmp_path: Path) -> None:
    """Its average goes round the clip, so that it is never cut into parts."""
    source = written(tmp_path / "in.mp4", small(read_clip(SAMPLE), 12))
    solver = {"preset": "published", "steps": 10}
    outcome = run(source, degradation=[{"kind": "temporal_average", "window": 5}], solver=solver, part_frames=8)
    assert [scene["parts"] for scene in outcome.scenes] == [1]
    assert outcome.settings["cg_iterations"] == 10


def test_large_frames_go_in_tiles_and_the_settings_say_which(run: Run, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mp4", read_clip(SAMPLE, 2).frames.float())
    stated = {"simulate": True, "degradation": [{"kind": "gaussian_blur", "sigma": 2}], "noise_sigma": 0.01}
    whole, tiles = (run(source, tile_pixels=n, **stated) for n in (TILE_PIXELS, 160 * 176))
    assert whole.settings["tiles"] == {"count": 1, "width": 256, "height": 160, "overlap": [0, 0]}
    assert tiles.settings["tiles"] == {"count": 2, "width": 160, "height": 160, "overlap": [64, 0]}
    assert tiles.compared["psnr"] == pytest.approx(whole.compared["psnr"], abs=0.1)


def test_small_frames_are_warned_of_unless_the_prior_was_made_for_them(
    run: Run, prior: DiffusersPrior, tmp_path: Path
) -> None:
    source = written(tmp_path / "in.mp4", small(read_clip(SAMPLE), 1))
    wanted = {"degradation": [{"kind": "gaussian_blur", "sigma": 1}]}
    assert run(source, **wanted).warnings == []
    (told,) = run(source, model=replace(prior, directory=tmp_path), **wanted).warnings
    assert "the nearest is 1280x768" in told


@pytest.mark.parametrize("crf", [10, 40])
def test_a_clip_that_is_sharper_than_stated_is_warned_of(run: Run, tmp_path: Path, crf: int) -> None:
    """And neither the noise of a poor file nor strong white noise is taken for detail."""
    clip = read_clip(SAMPLE, 5)
    sharp = clip.frames.float()
    blurred = GaussianBlur(3).A(sharp)
    noisy = blurred + 0.1 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))
    told: list[list[str]] = []
    for frames in (sharp, blurred, noisy):
        source = tmp_path / f"source{len(told)}.mp4"
        write_clip(source, frames.clamp(0, 1), clip, pts=[512 * n for n in range(5)], crf=crf)
        told.append(run(source, degradation=[{"kind": "gaussian_blur", "sigma": 3}], solver={"steps": 2}).warnings)
    assert len(told[0]) == 1 and told[0][0].startswith("the clip is sharper than stated")
    assert told[1] == told[2] == []
