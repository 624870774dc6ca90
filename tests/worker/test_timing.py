"""Timestamps of clips that come out with more frames than went in."""

from fractions import Fraction
from pathlib import Path

import pytest

from worker.solver.operators import Chain
from worker.solver.spatial import GaussianBlur
from worker.solver.temporal import TemporalAverage, TemporalDownsample
from worker.timing import extend_pts, restored_times
from worker.video import ClipInfo


def clip(time_base: Fraction = Fraction(1, 12800), rate: Fraction = Fraction(25)) -> ClipInfo:
    return ClipInfo(Path("in.mp4"), 64, 48, time_base, rate, Fraction(1), 1, 1)


def test_added_frames_are_evenly_spaced() -> None:
    assert extend_pts([100, 140], 2, 1, 40) == [20, 60, 100, 140, 180]
    assert extend_pts([0], 0, 3, Fraction(100, 3)) == [0, 33, 67, 100]
    assert extend_pts([5, 6], 0, 0, 7) == [5, 6]


def test_as_many_frames_keep_their_times() -> None:
    source = clip()
    assert restored_times(source, [3, 9], Chain([TemporalAverage(2), GaussianBlur(1.0)])) == (source, [3, 9])


def test_a_valid_average_tells_of_frames_beyond_its_own() -> None:
    look, times = restored_times(clip(), [0, 512], Chain([TemporalAverage(4, "valid")]))
    assert times == [-1024, -512, 0, 512, 1024]
    assert look == clip()


def test_frames_of_one_exposure_share_its_time() -> None:
    """Also where the exposures differ in length; the last one takes as long as the one before it."""
    look, times = restored_times(clip(), [0, 512, 1100], Chain([TemporalDownsample(4)]))
    assert (look.time_base, look.rate) == (Fraction(1, 51200), Fraction(100))
    seconds = [time * look.time_base for time in times]
    assert seconds[::4] == [time * clip().time_base for time in (0, 512, 1100)]
    for start, end, n in ((0, 512, 0), (512, 1100, 4), (1100, 1688, 8)):
        share = Fraction(end - start, 4) * clip().time_base
        assert [b - a for a, b in zip(seconds[n : n + 3], seconds[n + 1 : n + 4], strict=True)] == [share] * 3


def test_the_chain_is_walked_backwards() -> None:
    """First comes what happened last: exposures are split, then the average before them is undone."""
    look, times = restored_times(clip(), [0, 512], Chain([TemporalAverage(3, "valid"), TemporalDownsample(2)]))
    assert look.rate == 50
    assert times == [-512, 0, 512, 1024, 1536, 2048]


@pytest.mark.parametrize("ticks", [1_000_000_000, 2**31 - 1])
def test_a_clock_too_fine_for_mp4_is_not_made_finer(ticks: int) -> None:
    source = clip(Fraction(1, ticks), Fraction(10))
    look, times = restored_times(source, [0, ticks // 10], Chain([TemporalDownsample(3)]))
    assert look.time_base == source.time_base
    assert times[1] == round(Fraction(ticks // 10, 3))
