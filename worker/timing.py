"""When restored frames are shown, where they are more than were measured."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from worker.solver.operators import Chain
from worker.solver.temporal import TemporalAverage, TemporalDownsample
from worker.video import ClipInfo

LARGEST_TIMESCALE = 2**31 - 1  # ticks a second that mp4 can count in


def scene_times(
    clip: ClipInfo, pts: Sequence[int], scene: range, operator: Chain | None
) -> tuple[ClipInfo, list[int | None]]:
    """As `restored_times`, for a scene of a clip with these timestamps; operator: None where the clip is clean.

    Frames beyond a scene, which a `valid` average tells of, are shown at the ends of the clip alone: elsewhere the
    time is another scene's, and theirs is None.
    """
    own = pts[scene.start : scene.stop]
    if operator is None:
        return clip, list(own)
    end = pts[scene.stop] if scene.stop < len(pts) else None
    look, times = restored_times(clip, own, operator, end)
    scale = round(clip.time_base / look.time_base)
    first = own[0] * scale if scene.start else None
    last = None if end is None else end * scale
    return look, [None if (first is not None and t < first) or (last is not None and t >= last) else t for t in times]


def restored_times(
    clip: ClipInfo, pts: Sequence[int], operator: Chain, end: int | None = None
) -> tuple[ClipInfo, list[int]]:
    """The source's description with the time base and rate of the restored clip, and the timestamps of its frames.

    Frames beyond the measured ones, which a `valid` average tells of, are an average frame apart; frames that shared an
    exposure share its time evenly. The last exposure lasts until `end`, or as long as the one before it.
    """
    times = list(pts)
    for step in reversed(operator.operators):
        match step:
            case TemporalAverage():
                times = extend_pts(times, *step.grows(), clip.frame_ticks)
            case TemporalDownsample(factor):
                last = times[-1] - times[-2] if len(times) > 1 else max(1, round(clip.frame_ticks))
                ends = [*times, end if end is not None and end > times[-1] else times[-1] + last]
                scale = factor if (clip.time_base / factor).denominator <= LARGEST_TIMESCALE else 1
                shares = [Fraction(scale * n, factor) for n in range(factor)]
                times = [round(a * scale + (b - a) * share) for a, b in pairwise(ends) for share in shares]
                clip = replace(clip, time_base=clip.time_base / scale, rate=clip.rate * factor)
                end = None if end is None else end * scale
            case _:
                pass
    return clip, times


def extend_pts(pts: Sequence[int], before: int, after: int, duration: Fraction | int) -> list[int]:
    """Timestamps with `before` more ahead and `after` more behind, `duration` ticks apart."""
    ahead = [pts[0] - round(k * duration) for k in range(before, 0, -1)]
    behind = [pts[-1] + round(k * duration) for k in range(1, after + 1)]
    return [*ahead, *pts, *behind]
