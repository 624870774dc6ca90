"""What a clip gives the solver, part by part: measured frames, and what happened to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from app.degradations import Degradation, Mask
from app.restoration import Restoration
from worker.frames import FrameWindow, clip_window, mask_window
from worker.simulate import random_mask, sent, size_at
from worker.solver.operators import Chain
from worker.solver.segments import Part, Timeline
from worker.stated import operator_of
from worker.video import Beside, ClipInfo, read_kernel

PLACEHOLDER = torch.ones(1, 1, 1, 1)  # for the frames of a moving mask, which come part by part


class Reader(Protocol):
    """Is told of what is read; whatever it raises ends it."""

    def check(self) -> None:
        """Called after every frame."""

    def measured(self, stage: str, frames: int) -> None:
        """So many frames went through a stage since the last call."""


class Source:
    """Reads a clip and its mask once, from the first part to the last. Where the clip is clean, it is degraded here.

    stated: what happened to it. mask, kernel: files that came with it. device: where operators are to be.
    Raises ValueError where a file cannot be read as what it is to be.

    beside: a still mask, or a placeholder for one that moves, and the kernel. moves: whether there is one that moves.
    """

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        wanted: Restoration,
        stated: list[Degradation],
        mask: Path | None,
        kernel: Path | None,
        device: torch.device,
        reader: Reader,
    ) -> None:
        self._info, self._wanted, self._stated, self._device, self._reader = info, wanted, stated, device, reader
        self._clip = clip_window(path, reader.check)
        still, self._moving = self._masks(mask)
        self._mask_first = 0  # number, in the mask's file, of the first frame that goes with the scene at hand
        self.beside = Beside(still, read_kernel(kernel) if kernel else None)
        self._real = operator_of(stated, self.beside, device)

    @property
    def moves(self) -> bool:
        return self._moving is not None

    def take(self, scene: range, timeline: Timeline, part: Part) -> tuple[Tensor, Tensor | None]:
        """The measured frames of a part, (T', 3, H', W') in [0, 1], and its true ones where the clip is clean.

        scene: frames of the file. timeline: of the scene, as the solver takes it.
        """
        if not self._wanted.simulate:
            measured = self._clip.take(_shifted(part.measured, scene.start))
            self._reader.measured("decode", len(measured))
            return measured, None
        real = Timeline(self._real.operators, timeline.frames)
        own = real.part(part.measured)
        wanted = range(min(part.true.start, own.true.start), max(part.true.stop, own.true.stop))
        clean = self._clip.take(_shifted(wanted, scene.start))
        self._reader.measured("decode", len(clean))
        truth, seen = (clean[r.start - wanted.start : r.stop - wanted.start] for r in (part.true, own.true))
        y = self.operators(real, own).A(seen.to(self._device).float())
        seed, first = self._wanted.solver.seed, scene.start + part.measured.start
        return sent(y, self._wanted.noise_sigma or 0, seed, first), truth

    def operators(self, timeline: Timeline, part: Part) -> Chain:
        """What happened to a part alone."""
        if self._moving is None:
            return timeline.operators_of(part)
        frames = self._moving

        def moving(wanted: range) -> Tensor:
            return frames(_shifted(wanted, self._mask_first)).to(self._device)

        return timeline.operators_of(part, moving)

    def scene_is_over(self, timeline: Timeline) -> None:
        """What is asked for next is of the scene after that of this timeline."""
        if self.moves:
            index = next(n for n, step in enumerate(self._stated) if isinstance(step, Mask))
            self._mask_first += timeline.reaching[index]

    def _masks(self, path: Path | None) -> tuple[Tensor | None, Callable[[range], Tensor] | None]:
        """A still mask, or a placeholder and what gives the frames of a moving one."""
        index, step = next(((n, s) for n, s in enumerate(self._stated) if isinstance(s, Mask)), (0, None))
        if step is None:
            return None, None
        if path is not None:
            mask = mask_window(path)
            return (PLACEHOLDER, mask.take) if isinstance(mask, FrameWindow) else (mask, None)
        if not self._wanted.simulate:
            return None, None
        height, width = size_at(self._stated, index, self._info.height, self._info.width)
        draw = random_mask(step, height, width, self._wanted.solver.seed)
        return (PLACEHOLDER, draw) if step.moving else (draw(range(1)), None)


def _shifted(frames: range, by: int) -> range:
    return range(frames.start + by, frames.stop + by)
