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
    """Takes parts as they are solved and frames as they are shown; keeps numbers, and the last frame shown.

    Stretches of a clip may each have a report of their own: what one says of itself (`told`) another adds to its own.
    """

    def __init__(self) -> None:
        self._residuals: dict[int, tuple[float, float]] = {}
        self._warp_errors: list[Future[float] | float | None] = []
        self._dropped: set[int] = set()
        self._worst = {"detail": 0.0, "unsolved": 0.0}
        self._sums = {"noise": 0.0, "left": 0.0, "began": 0.0, "values": 0.0}  # of squares, over so many values
        self._last: Tensor | None = None
        self._any = False

    def explained(self, first: int, residuals: list[float], before: list[float], noise: Noise, values: int) -> None:
        """How well a part explains its measured frames, from number `first` of the clip on, now and at its start.

        noise: what was taken for the noise of the part. values: that each frame has.
        """
        self._residuals |= {first + n: pair for n, pair in enumerate(zip(residuals, before, strict=True))}
        if noise.is_detail:
            self._worst["detail"] = max(self._worst["detail"], noise.sigma)
        self._sums["values"] += values * len(residuals)
        self._sums["noise"] += values * len(residuals) * noise.sigma**2
        self._sums["left"] += values * sum(r**2 for r in residuals)
        self._sums["began"] += values * sum(r**2 for r in before)

    def dropped(self, frames: list[int]) -> None:
        """Measured frames of the clip that were not taken for a mean of their neighbours."""
        self._dropped |= set(frames)

    def fitted(self, unsolved: list[float]) -> None:
        """What the iterations of a part's data steps left, relative to what they started from."""
        self._worst["unsolved"] = max([self._worst["unsolved"], *unsolved])

    def cut(self) -> None:
        """What is shown next is another scene."""
        self._last = None

    def shown(self, frame: Tensor, aside: Lane) -> None:
        """The next restored frame, (3, H, W), in the host's memory. aside: where its motion is looked for."""
        self._moved_on(frame, aside)
        self._last = frame.clone()  # a view would hold all of its part

    def _moved_on(self, frame: Tensor, aside: Lane) -> None:
        """Look for the motion from the last frame to this one."""
        if self._any:
            self._warp_errors.append(None if self._last is None else aside.put(_error, self._last, frame))
        self._any = True

    def told(self) -> dict[str, Any]:
        """All there is to add to another report, ready for JSON."""
        return {
            "residuals": [[n, *pair] for n, pair in self._residuals.items()],
            "dropped": sorted(self._dropped),
            "worst": self._worst,
            "sums": self._sums,
            "warp_errors": [_found(one) for one in self._warp_errors],
        }

    def add(self, told: dict[str, Any]) -> None:
        """What another report told of its parts."""
        self._residuals |= {n: (after, before) for n, after, before in told["residuals"]}
        self._dropped |= set(told["dropped"])
        self._worst = {name: max(value, told["worst"][name]) for name, value in self._worst.items()}
        self._sums = {name: value + told["sums"][name] for name, value in self._sums.items()}

    def add_shown(self, told: dict[str, Any], first: Tensor, last: Tensor, aside: Lane) -> None:
        """What another report told of frames that come next. first, last: of them."""
        self._moved_on(first, aside)
        self._warp_errors += told["warp_errors"]
        self._last = last

    def means(self) -> tuple[float, float, float]:
        """RMS over all parts: noise, residual, residual at the start."""
        sums = self._sums
        noise, left, began = (math.sqrt(sums[name] / sums["values"]) for name in ("noise", "left", "began"))
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
            "warp_error": [_told(_found(one)) for one in self._warp_errors],
            "temporal_dropped": sorted(self._dropped),
        }

    def warnings(self, window: int) -> list[str]:
        """What makes the statement doubtful, a sentence each. window: of the mean that was stated."""
        return self._sharper() + self._not_solved() + self._no_mean(window)

    def _sharper(self) -> list[str]:
        if not self._worst["detail"]:
            return []
        levels = 255 * self._worst["detail"]
        return [f"the clip is sharper than stated: {levels:.0f} levels of detail are where that blur would leave none"]

    def _not_solved(self) -> list[str]:
        unsolved = self._worst["unsolved"]
        if unsolved <= TOLERANCE:
            return []
        told = f"the data step ended after {MOST_ITERATIONS} iterations with {unsolved:.1g} of its residual left"
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


def _found(error: Future[float] | float | None) -> float | None:
    return error.result() if isinstance(error, Future) else error


def _told(error: float | None) -> float | None:
    return None if error is None or math.isnan(error) else round(error, DIGITS)


def _for_motion(frame: Tensor) -> Tensor:
    """Small enough to look for motion in."""
    frame = frame.float()
    while frame.shape[-2] * frame.shape[-1] > FLOW_PIXELS:
        frame = F.avg_pool2d(frame, 2)
    return frame
