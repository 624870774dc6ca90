"""A long clip in parts: which measured frames go together, and what happened to each part taken alone.

A part is a run of measured frames with all the true frames they tell of. Its operators are the rows and columns of the
whole clip's that concern it: no measured frame is explained by fewer true ones than it was made of. Parts overlap by
nearly two windows, and their results are cross-faded there; where nothing mixes frames they do not overlap.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from worker.solver.operators import Chain, Mask, Operator
from worker.solver.temporal import FrameMix, Temporal


@dataclass(frozen=True)
class Part:
    """measured: which measured frames. true: which true frames they tell of."""

    measured: range
    true: range

    @property
    def own(self) -> list[int]:
        """Where, among its true frames, those of the same numbers as its measured ones are."""
        return [n - self.true.start for n in self.measured]


class Timeline:
    """How the measured frames of a clip come from its true ones, whatever else happened to each.

    operators: of the whole clip. frames: how many true frames it has.
    """

    def __init__(self, operators: Sequence[Operator], frames: int) -> None:
        self.operators = operators
        self.frames = frames
        self.reaching: list[int] = []  # how many frames each operator is given
        self._mixes: list[Tensor | None] = []  # (T', T) for each
        whole = torch.eye(frames, dtype=torch.float64)
        for operator in operators:
            self.reaching.append(len(whole))
            mix = None
            if isinstance(operator, Temporal):
                mix = operator.matrix(len(whole), torch.float64, torch.device("cpu"))
                whole = mix @ whole
            self._mixes.append(mix)
        self._reach = [_support(row) for row in whole]

    def parts(self, length: int) -> list[Part]:
        """Parts of at most `length` true frames, or of as many as it takes to hold two windows and their overlap."""
        window = max(map(len, self._reach))
        stride = max((b.start - a.start for a, b in pairwise(self._reach)), default=1)
        overlap = max(2 * window - 2, window + 2 * stride - 2) if window > 1 else 0
        length = max(length, 2 * overlap)
        count = math.ceil((self.frames - overlap) / (length - overlap))
        if count <= 1:
            return [Part(range(len(self._reach)), range(self.frames))]
        length = math.ceil((self.frames + (count - 1) * overlap) / count)
        found = []
        for n in range(count):
            start = round(n * (self.frames - length) / (count - 1))
            inside = [i for i, r in enumerate(self._reach) if r.start >= start and r.stop <= start + length]
            found.append(self.part(range(inside[0], inside[-1] + 1)))
        return found

    def part(self, measured: range) -> Part:
        """The part that holds these measured frames."""
        return Part(measured, _around([self._reach[i] for i in measured]))

    @property
    def only_average(self) -> Tensor | None:
        """(T, T): how frames are mixed, where one operator does and gives as many as it takes."""
        mixes = [mix for mix in self._mixes if mix is not None]
        return mixes[0] if len(mixes) == 1 and mixes[0].shape[0] == mixes[0].shape[1] else None

    @property
    def measured(self) -> int:
        """How many measured frames there are."""
        return len(self._reach)

    def operators_of(self, part: Part, moving_mask: Callable[[range], Tensor] | None = None) -> Chain:
        """What happened to a part alone. moving_mask: gives the frames of the mask, (T, 1, H, W) of 0 and 1."""
        made = part.measured  # frames of the whole clip that the operator at hand is to make
        chain: list[Operator] = []
        for operator, mix in zip(reversed(self.operators), reversed(self._mixes), strict=True):
            if mix is not None:
                rows = mix[made.start : made.stop]
                taken = _around([_support(row) for row in rows])
                numbers = torch.arange(len(mix), dtype=torch.float64).view(-1, 1, 1, 1)
                nearest = operator.lift(numbers).flatten().long()[taken.start : taken.stop] - made.start
                chain.append(FrameMix(rows[:, taken.start : taken.stop], nearest.clamp(0, len(made) - 1)))
                made = taken
            elif isinstance(operator, Mask) and moving_mask is not None:
                chain.append(Mask(moving_mask(made)))
            else:
                chain.append(operator)
        return Chain(chain[::-1])


def runs(parts: Sequence[Part], length: int) -> list[list[Part]]:
    """Neighbours together, as long as they have at most `length` true frames."""
    found = [[parts[0]]]
    for part in parts[1:]:
        if part.true.stop - found[-1][0].true.start <= length:
            found[-1].append(part)
        else:
            found.append([part])
    return found


def without_mixing(operators: Chain, part: Part, frames: Collection[int]) -> Chain:
    """A part's operators where these of its measured frames (counted in it) tell of their own true frame alone."""

    def one(operator: Operator) -> Operator:
        if not isinstance(operator, FrameMix):
            return operator
        weights = operator.weights.clone()
        for n in frames:
            weights[n] = 0
            weights[n, part.own[n]] = 1
        return replace(operator, weights=weights)

    return Chain([one(operator) for operator in operators.operators])


def beginning(operators: Chain, measured: int) -> tuple[Chain, int]:
    """A part's operators as they give its first `measured` frames alone, and how many of its true frames that takes."""
    chain: list[Operator] = []
    for operator in reversed(operators.operators):
        if isinstance(operator, FrameMix):
            rows = operator.weights[:measured]
            measured = _around([_support(row) for row in rows]).stop
            operator = FrameMix(rows[:, :measured], operator.nearest[:measured].clamp_max(len(rows) - 1))
        elif isinstance(operator, Mask) and len(operator.known) > 1:
            operator = Mask(operator.known[:measured])
        chain.append(operator)
    return Chain(chain[::-1]), measured


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """Two results (T, C, H, W) for the same frames: more and more of the second, none of either where it ends."""
    weight = (torch.arange(len(before), device=before.device, dtype=before.dtype) + 1) / (len(before) + 1)
    return before.lerp(after, weight[:, None, None, None])


def _support(row: Tensor) -> range:
    """The columns a measured frame is made of."""
    columns = row.nonzero().flatten()
    return range(int(columns[0]), int(columns[-1]) + 1)


def _around(ranges: Sequence[range]) -> range:
    return range(min(r.start for r in ranges), max(r.stop for r in ranges))
