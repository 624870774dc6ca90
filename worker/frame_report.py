"""What each frame of a result is worth, in a few numbers a frame: for the manifest."""

import math
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from worker.lane import Lane
from worker.measures import warp_error
from worker.solver.data_step import MOST_ITERATIONS, TOLERANCE
from worker.solver.noise import Noise

DIGITS = 6
FLOW_PIXELS = 1 << 19  # larger frames are halved before their motion is looked for, which takes a quarter of the time


class FrameReport:
    """Takes parts as they are solved and frames as they are shown; keeps numbers, and the last frame shown."""

    def __init__(self) -> None:
        self._residuals: dict[int, tuple[float, float]] = {}
        self._warp_errors: list[Future[float] | None] = []
        self._dropped: set[int] = set()
        self._detail = self._unsolved = 0.0
        self._noise = self._left = self._began = 0.0  # sums of squares over so many values
        self._values = 0
        self._last: Tensor | None = None
        self._any = False

    def explained(self, first: int, residuals: list[float], before: list[float], noise: Noise, values: int) -> None:
        """How well a part explains its measured frames, from number `first` of the clip on, now and at its start.

        noise: what was taken for the noise of the part. values: that each frame has.
        """
        self._residuals |= {first + n: pair for n, pair in enumerate(zip(residuals, before, strict=True))}
        if noise.is_detail:
            self._detail = max(self._detail, noise.sigma)
        self._values += values * len(residuals)
        self._noise += values * len(residuals) * noise.sigma**2
        self._left += values * sum(r**2 for r in residuals)
        self._began += values * sum(r**2 for r in before)

    def dropped(self, frames: list[int]) -> None:
        """Measured frames of the clip that were not taken for a mean of their neighbours."""
        self._dropped |= set(frames)

    def fitted(self, unsolved: list[float]) -> None:
        """What the iterations of a part's data steps left, relative to what they started from."""
        self._unsolved = max([self._unsolved, *unsolved])

    def cut(self) -> None:
        """What is shown next is another scene."""
        self._last = None

    def shown(self, frame: Tensor, aside: Lane) -> None:
        """The next restored frame, (3, H, W), in the host's memory. aside: where its motion is looked for."""
        if self._any:
            self._warp_errors.append(None if self._last is None else aside.put(_error, self._last, frame))
        self._last, self._any = frame.clone(), True  # a view would hold all of its part

    def means(self) -> tuple[float, float, float]:
        """RMS over all parts: noise, residual, residual at the start."""
        noise, left, began = (math.sqrt(squares / self._values) for squares in (self._noise, self._left, self._began))
        return noise, left, began

    def values(self) -> dict[str, list[Any]]:
        """All there is to tell, ready for JSON.

        residual, residual_before: for each measured frame. warp_error:
        for each pair of restored frames, along their own motion; None across cuts and where no motion is found.
        temporal_dropped: numbers of measured frames.
        """
        residuals = [pair for _, pair in sorted(self._residuals.items())]
        return {
            "residual": [round(after, DIGITS) for after, _ in residuals],
            "residual_before": [round(before, DIGITS) for _, before in residuals],
            "warp_error": [None if one is None else _told(one.result()) for one in self._warp_errors],
            "temporal_dropped": sorted(self._dropped),
        }

    def warnings(self, window: int) -> list[str]:
        """What makes the statement doubtful, a sentence each. window: of the mean that was stated."""
        return self._sharper() + self._not_solved() + self._no_mean(window)

    def _sharper(self) -> list[str]:
        if not self._detail:
            return []
        levels = 255 * self._detail
        return [f"the clip is sharper than stated: {levels:.0f} levels of detail are where that blur would leave none"]

    def _not_solved(self) -> list[str]:
        if self._unsolved <= TOLERANCE:
            return []
        told = f"the data step ended after {MOST_ITERATIONS} iterations with {self._unsolved:.1g} of its residual left"
        return [f"{told}, not {TOLERANCE:.0g}: the noise stated may be less than the clip has"]

    def _no_mean(self, window: int) -> list[str]:
        if not self._dropped:
            return []
        frames = sorted(self._dropped)
        runs = [[frames[0]]]
        for one, other in pairwise(frames):
            if other > one + 1:
                runs.append([])
            runs[-1].append(other)
        told = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        if len(frames) == 1:
            return [f"frame {told} (counted from 0) does not fit a mean of {window} frames and was taken as it is"]
        return [f"frames {told} (counted from 0) do not fit a mean of {window} frames and were taken as they are"]


def _error(before: Tensor, after: Tensor) -> float:
    one, other = _for_motion(before), _for_motion(after)
    return warp_error(one, other, (one, other))


def _told(error: float) -> float | None:
    return None if math.isnan(error) else round(error, DIGITS)


def _for_motion(frame: Tensor) -> Tensor:
    """Small enough to look for motion in."""
    frame = frame.float()
    while frame.shape[-2] * frame.shape[-1] > FLOW_PIXELS:
        frame = F.avg_pool2d(frame, 2)
    return frame
