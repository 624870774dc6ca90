"""Clips in motion: what is told of each frame, and frames that a mean over time does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.restoration import Restoration
from tests import media
from tests.worker.test_pipeline import Follower
from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.frame_report import FrameReport
from worker.lane import Lane
from worker.measures import psnr
from worker.outcome import Outcome
from worker.pipeline import Pipeline
from worker.scenes import scan
from worker.solve import TILE_PIXELS
from worker.solver.closed_form import closed_form
from worker.solver.data_step import data_step
from worker.solver.misfit import misfits
from worker.solver.operators import Chain
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.segments import Timeline, without_mixing
from worker.solver.spatial import GaussianBlur
from worker.solver.temporal import TemporalAverage
from worker.video import read_clip

WINDOW = 7
STATED = [{"kind": "temporal_average", "window": WINDOW}, {"kind": "gaussian_blur", "sigma": 2}]
average, blur = TemporalAverage(WINDOW), GaussianBlur(2.0)
WIDE = GaussianBlur(5.0)


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


def pan(speed: int, frames: int = 25, size: tuple[int, int] = (80, 128)) -> Tensor:
    """(T, 3, height, width), a window that moves over a photograph, mirrored at its edges."""
    picture = read_clip(SAMPLE, 1).frames[0].float()
    wide = torch.cat([picture, picture.flip(2)], 2)
    top = (picture.shape[1] - size[0]) // 2
    columns = [(torch.arange(size[1]) + n * speed) % wide.shape[2] for n in range(frames)]
    return torch.stack([wide[:, top : top + size[0]][:, :, at] for at in columns])


def rounded(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def found(measured: Tensor, sigma: float = 1 / 255) -> list[int]:
    frames = len(measured)
    mix = average.matrix(frames, torch.float64, torch.device("cpu"))
    return misfits(measured, mix, list(range(frames)), sigma)


def restored(prior: DiffusersPrior, tmp_path: Path, measured: Tensor, part_frames: int = 25) -> Outcome:
    source = tmp_path / "in.mp4"
    like = read_clip(SAMPLE, 1)
    write_clip(source, measured, like, pts=[512 * n for n in range(len(measured))], crf=0)
    wanted: dict[str, Any] = {"degradation": STATED, "output": {"crf": 0}, "solver": {"steps": 10, "tau": 0.1}}
    directory = tmp_path / "out"
    directory.mkdir()
    return Pipeline(
        prior,
        Restoration.model_validate(wanted),
        source,
        scan(source),
        None,
        None,
        micro_batch=4,
        part_frames=part_frames,
        tile_pixels=TILE_PIXELS,
        follower=Follower(),
    ).run(directory)


@pytest.mark.parametrize("smooth", [False, True], ids=["detailed", "smooth"])
@pytest.mark.parametrize("speed", [0, 1, 2, 4, 16, 64])
def test_where_the_statement_is_right_nothing_is_dropped(speed: int, smooth: bool) -> None:
    x = WIDE.A(pan(speed)) if smooth else pan(speed)
    assert found(rounded(blur.A(average.A(x)))) == []


@pytest.mark.parametrize("speed", [0, 4])
@pytest.mark.parametrize("change", ["flash", "cut"])
def test_a_flash_or_a_cut_that_was_averaged_with_the_rest_is_no_misfit(change: str, speed: int) -> None:
    x = pan(speed)
    x[12:] = x[12:].flip(3) if change == "cut" else x[12:]
    x[12] = (1.5 * x[12]).clamp(0, 1)
    assert found(rounded(blur.A(average.A(x)))) == []


@pytest.mark.parametrize("speed", [2, 4, 16, 64])
@pytest.mark.parametrize("odd", [[12], list(range(10, 16)), list(range(25))], ids=["one", "six", "all"])
def test_frames_that_were_not_averaged_are_found(speed: int, odd: list[int]) -> None:
    x = pan(speed)
    y = average.A(x)
    y[odd] = x[odd]
    assert found(rounded(blur.A(y))) == odd


def test_a_smooth_picture_in_slow_motion_that_was_not_averaged_is_found() -> None:
    """What little detail it has changes faster than a mean would leave."""
    assert found(rounded(blur.A(WIDE.A(pan(4))))) == list(range(25))


def test_a_pixel_a_frame_is_enough_where_nothing_was_blurred() -> None:
    """The first zero of a mean of seven is at 1/7 cycles a pixel there, in fine detail."""
    x = pan(1, size=(160, 256))
    assert found(rounded(average.A(x))) == []
    assert found(rounded(x)) == list(range(25))


@pytest.mark.parametrize("still", [3, 5, 7])
def test_frames_that_hardly_move_go_with_the_rest(still: int) -> None:
    """A still picture looks like a mean of itself, but what a few such frames are is told by all others."""
    x = torch.cat([pan(0, still), pan(16, 25 - still)])
    assert found(rounded(blur.A(x))) == list(range(25))
    y = average.A(x)
    assert found(rounded(blur.A(y))) == []
    y[-6:] = x[-6:]
    assert found(rounded(blur.A(y))) == list(range(19, 25))


def test_frames_next_to_a_missed_cut_are_found() -> None:
    """Averaged scene by scene, taken for one clip: a frame beside the cut lacks what is beyond it."""
    one, other = pan(1), pan(1).flip(2, 3)
    y = torch.cat([average.A(one[:12]), average.A(other[12:])])
    assert found(rounded(blur.A(y))) == list(range(9, 15))


def test_a_long_stretch_is_looked_at_block_by_block() -> None:
    x = pan(8, 80)
    y = average.A(x)
    y[50:54] = x[50:54]
    assert found(rounded(blur.A(y))) == list(range(50, 54))


def test_without_mixing_a_measured_frame_tells_of_its_own_true_frame_alone() -> None:
    timeline = Timeline([TemporalAverage(3), GaussianBlur(1.0)], 40)
    part = timeline.part(range(10, 20))
    assert part.true == range(9, 21)
    operators = timeline.operators_of(part)
    x = torch.rand(12, 3, 16, 16, dtype=torch.float64)
    y = without_mixing(operators, part, [0, 4]).A(x)
    alone = Chain([GaussianBlur(1.0)]).A(x[part.own])
    mixed = operators.A(x)
    for n in range(10):
        torch.testing.assert_close(y[n], alone[n] if n in (0, 4) else mixed[n])


@pytest.mark.parametrize(("part_frames", "parts"), [(36, 1), (24, 2)])
def test_frames_that_do_not_fit_are_taken_as_they_are_and_told_of(
    prior: DiffusersPrior, tmp_path: Path, part_frames: int, parts: int
) -> None:
    """Parts of 24 frames overlap by 12, where these six frames are in both."""
    x = pan(8, 36)
    right = average.A(x)
    odd = right.clone()
    odd[16:22] = x[16:22]
    outcome = restored(prior, tmp_path, blur.A(odd), part_frames)
    assert outcome.per_frame["temporal_dropped"] == list(range(16, 22))
    (told,) = outcome.warnings
    assert told == "frames 16 to 21 (counted from 0) do not fit a mean of 7 frames and were taken as they are"
    assert outcome.scenes[0]["parts"] == parts
    back = read_clip(outcome.files["output"]).frames.float()
    assert psnr(back[16:22], x[16:22]) > psnr(blur.A(x[16:22]), x[16:22])
    assert psnr(back, x) > psnr(blur.A(odd), x) + 1


def test_dropping_is_better_than_the_ghosts_of_a_mean_that_was_not_made(prior: DiffusersPrior, tmp_path: Path) -> None:
    """The same measurement fitted as stated is worse in those frames and around them."""
    x = pan(8)
    y = average.A(x)
    y[10:16] = x[10:16]
    y = 2 * rounded(blur.A(y)) - 1
    timeline = Timeline([average, blur], 25)
    (part,) = timeline.parts(25)
    stated = timeline.operators_of(part)
    results = [
        (data_step(operator, closed_form(operator, y), y, y, 0.02) + 1) / 2
        for operator in (stated, without_mixing(stated, part, found((y + 1) / 2)))
    ]
    assert psnr(results[1][7:19], x[7:19]) > psnr(results[0][7:19], x[7:19]) + 3


def test_every_frame_is_told_of_and_nothing_that_json_cannot_hold(prior: DiffusersPrior, tmp_path: Path) -> None:
    still = torch.stack([torch.from_numpy(media.picture(128, 80, t)) for t in range(7)]).float()
    outcome = restored(prior, tmp_path, torch.cat([blur.A(average.A(pan(1, 9))), blur.A(average.A(still))]))
    assert [scene["frames"] for scene in outcome.scenes] == [[0, 9], [9, 16]]
    told = json.loads(json.dumps(outcome.per_frame, allow_nan=False))
    assert len(told["residual"]) == len(told["residual_before"]) == 16
    assert len(told["warp_error"]) == 15
    assert told["warp_error"][8] is None
    assert all(0 < error < 0.1 for n, error in enumerate(told["warp_error"]) if n != 8)
    assert all(0 < residual < 0.1 for residual in told["residual"])
    mean = (sum(r**2 for r in told["residual"]) / 16) ** 0.5
    assert mean == pytest.approx(outcome.residual, rel=1e-3)
    assert told["temporal_dropped"] == []


def test_a_report_of_frames_without_motion_has_none() -> None:
    report = FrameReport()
    with Lane() as aside:
        for _ in range(3):
            report.shown(torch.rand(3, 8, 8), aside)
    assert report.values()["warp_error"] == [None, None]


def test_large_frames_are_told_of_at_half_their_size() -> None:
    x = torch.nn.functional.interpolate(pan(1, 2), scale_factor=8.0, mode="bilinear")
    report = FrameReport()
    with Lane(2) as aside:
        for frame in x:
            report.shown(frame, aside)
    (error,) = report.values()["warp_error"]
    assert error is not None and error < 0.02
