"""Parts of a long clip, and what happened to each, against the whole."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from worker.solver.closed_form import closed_form
from worker.solver.data_step import data_step
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.segments import Timeline, beginning, crossfade, runs
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage, TemporalDownsample

FRAMES = 60
OPERATORS: dict[str, list[Operator]] = {
    "still": [GaussianBlur(1.0), Downsample(2)],
    "average": [TemporalAverage(7), GaussianBlur(1.0)],
    "even": [TemporalAverage(4)],
    "valid": [Downsample(2), TemporalAverage(5, "valid")],
    "exposure": [TemporalDownsample(3)],
    "both": [TemporalAverage(3), TemporalDownsample(4)],
}


def clip(frames: int = FRAMES) -> Tensor:
    return torch.randn(frames, 1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "window"), [("still", 0), ("average", 7), ("even", 4), ("valid", 5), ("exposure", 3), ("both", 6)]
)
def test_parts_cover_all_and_overlap_by_a_window(name: str, window: int) -> None:
    operators = OPERATORS[name]
    parts = Timeline(operators, FRAMES).parts(25)
    assert len(parts) > 1
    assert {i for part in parts for i in part.measured} == set(range(len(Chain(operators).A(clip()))))
    assert {i for part in parts for i in part.true} == set(range(FRAMES))
    assert all(len(part.true) <= 25 for part in parts)
    for one, other in pairwise(parts):
        assert one.true.start < other.true.start
        assert window <= one.true.stop - other.true.start <= 2 * window + 2, "what overlaps is solved twice"
        assert one.true.stop < other.true.stop


@pytest.mark.parametrize("name", OPERATORS)
def test_a_part_is_measured_as_it_was_in_the_whole(name: str) -> None:
    x = clip()
    operators = OPERATORS[name]
    y = Chain(operators).A(x)
    timeline = Timeline(operators, FRAMES)
    for part in timeline.parts(25):
        own = timeline.operators_of(part)
        part_x, part_y = (z[r.start : r.stop] for z, r in ((x, part.true), (y, part.measured)))
        torch.testing.assert_close(own.A(part_x), part_y, rtol=1e-12, atol=1e-12)
        back = torch.randn(part_y.shape, dtype=torch.float64)
        torch.testing.assert_close((own.A(part_x) * back).sum(), (part_x * own.A_adjoint(back)).sum())
        assert own.clip_shape((len(part_y), 1, *part_y.shape[-2:])) == part_x.shape
        assert (closed_form(own, part_y) is None) is (closed_form(Chain(operators), y) is None)
        whole_lift = Chain(operators).lift(y)[part.true.start : part.true.stop]
        reach = 7  # near the ends of a part another frame may be the nearest that is at hand
        inner = slice(reach, len(part_x) - reach)
        torch.testing.assert_close(own.lift(part_y)[inner], whole_lift[inner])


@pytest.mark.parametrize("name", [*OPERATORS, "moving mask"])
def test_the_beginning_of_a_part_is_measured_as_in_all_of_it(name: str) -> None:
    x = clip()
    known = (torch.rand(FRAMES, 1, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    operators = Chain(OPERATORS[name]) if name in OPERATORS else Chain([TemporalAverage(5), Mask(known)])
    timeline = Timeline(operators.operators, FRAMES)
    whole = timeline.operators_of(timeline.parts(FRAMES)[0], lambda frames: known[frames.start : frames.stop])
    y = whole.A(x)
    for measured in (1, 3, len(y)):
        first, taken = beginning(whole, measured)
        torch.testing.assert_close(first.A(x[:taken]), y[:measured], rtol=1e-12, atol=1e-12)
        assert taken < FRAMES or measured == len(y), "frames that tell nothing of these are left out"


def test_a_moving_mask_goes_with_the_frames_it_hides() -> None:
    """Wherever it stands in the list: here before frames are mixed, so that it has as many as the true clip."""
    known = (torch.rand(FRAMES, 1, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    x = clip()
    operators: list[Operator] = [GaussianBlur(0.5), Mask(known), TemporalAverage(5)]
    y = Chain(operators).A(x)
    timeline = Timeline(operators, FRAMES)
    asked = []

    def frames(wanted: range) -> Tensor:
        asked.append(wanted)
        return known[wanted.start : wanted.stop]

    for part in timeline.parts(25):
        own = timeline.operators_of(part, frames)
        expected = y[part.measured.start : part.measured.stop]
        torch.testing.assert_close(own.A(x[part.true.start : part.true.stop]), expected, rtol=1e-12, atol=1e-12)
    assert asked == [part.true for part in timeline.parts(25)]


@pytest.mark.parametrize("frames", [1, 2, 24, 25])
def test_a_short_clip_is_one_part(frames: int) -> None:
    timeline = Timeline([GaussianBlur(1.0)], frames)
    (part,) = timeline.parts(25)
    assert (part.measured, part.true) == (range(frames), range(frames))


def test_an_average_that_goes_round_is_never_cut() -> None:
    """Its first frames are made of its last."""
    assert len(Timeline([TemporalAverage(3, "circular")], FRAMES).parts(25)) == 1


def test_a_long_window_makes_longer_parts() -> None:
    timeline = Timeline([TemporalAverage(31)], 300)
    assert all(len(part.true) >= 2 * 31 for part in timeline.parts(25))


def test_parts_come_to_what_the_whole_comes_to() -> None:
    """In the middle of a part the data step knows nothing of where the part ends."""
    operators: list[Operator] = [TemporalAverage(3), GaussianBlur(1.0)]
    x = clip()
    y = Chain(operators).A(x)
    whole = data_step(Chain(operators), closed_form(Chain(operators), y), torch.zeros_like(x), y, 0.5)
    timeline = Timeline(operators, FRAMES)
    for part in timeline.parts(25):
        own, part_y = timeline.operators_of(part), y[part.measured.start : part.measured.stop]
        start = torch.zeros(len(part.true), *x.shape[1:], dtype=x.dtype)
        alone = data_step(own, closed_form(own, part_y), start, part_y, 0.5)
        together = whole[part.true.start : part.true.stop]
        torch.testing.assert_close(alone[10:-10], together[10:-10], rtol=0, atol=1e-3)


def test_a_crossfade_leans_to_the_part_that_knows_more() -> None:
    faded = crossfade(torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    assert faded.flatten().tolist() == [0.25, 0.5, 0.75]


def test_parts_that_share_frames_go_together_up_to_a_length() -> None:
    parts = Timeline([TemporalAverage(7)], 120).parts(25)
    assert len(parts) == 9
    together = runs(parts, 100)
    assert [part for run in together for part in run] == parts
    spans = [run[-1].true.stop - run[0].true.start for run in together]
    assert len(together) == 2 and max(spans) <= 100
    assert spans[0] + len(parts[len(together[0])].true) > 100  # no more would have fitted
    assert [len(run) for run in runs(parts, 0)] == [1] * 9
