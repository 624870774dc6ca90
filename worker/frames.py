"""Frames of a file as they are needed, in order: each is read once and dropped once nobody wants it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from worker.lane import threads_beside
from worker.video import iter_frames, iter_mask, nothing


class FrameWindow:
    """A stretch of frames that only ever moves on. frames: one after the other, (C, H, W).

    As many again are read by a thread while those that were taken are worked on.
    """

    def __init__(self, frames: Iterator[Tensor]) -> None:
        self._frames = frames
        self._held: list[Tensor] = []
        self._first = 0  # number of the first frame held
        self._thread = threads_beside()
        self._reading: Future[None] | None = None

    def take(self, wanted: range) -> Tensor:
        """(T, C, H, W): these frames. Those before them are dropped. Raises ValueError where the file has ended."""
        if self._reading:
            self._reading.result()
        drop = max(0, wanted.start - self._first)
        for _ in range(drop - len(self._held)):  # not held yet, and not wanted
            next(self._frames, None)
        self._held = self._held[drop:]
        self._first += drop
        self._read(len(wanted) - len(self._held))
        if len(self._held) < len(wanted) or wanted.start < self._first:
            raise ValueError(f"frames {wanted.start} to {wanted.stop - 1} cannot be read")
        taken = torch.stack(self._held[: len(wanted)])
        self._reading = self._thread.submit(self._read, 2 * len(wanted) - len(self._held))
        return taken

    def _read(self, count: int) -> None:
        self._held += islice(self._frames, max(0, count))


def clip_window(path: Path, each: Callable[[], None] = nothing) -> FrameWindow:
    """The frames of a clip, (3, H, W) float16 in [0, 1]. each: called after every frame that is read."""

    def frames() -> Iterator[Tensor]:
        for frame, _ in iter_frames(path):
            each()
            yield frame.half()

    return FrameWindow(frames())


def mask_window(path: Path) -> Tensor | FrameWindow:
    """A mask, white where pixels are known: a still one as (1, 1, H, W), a moving one frame by frame; float32, 0 and 1.

    Pictures that write known as 1 instead of 255 are understood.
    """
    frames = iter_mask(path)
    first = list(islice(frames, 2))
    if len(first) == 1:
        white = 1.0 if first[0].max() > 1.5 / 255 else 1 / 255
        return (torch.stack(first) > white / 2).float()
    return FrameWindow((frame > 0.5).float() for frame in chain(first, frames))
