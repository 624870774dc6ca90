"""Where the frames of a clip are while it is solved: of a long one on the CPU in files without a name."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

from worker.solver.segments import Part
from worker.solver.stages import Frames, Room


class Spilled:
    """A clip (T, ...) of which each access reads or writes just the frames it asks for.

    The file lies in `directory` and is gone with this object, or with the process. Raises OSError where the disk is
    full.
    """

    def __init__(self, directory: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        self._file = TemporaryFile(dir=directory)  # noqa: SIM115 - open as long as this object is
        weakref.finalize(self, self._file.close)
        self._shape, self._dtype = torch.Size(shape), dtype
        self._bytes = dtype.itemsize * self._shape[1:].numel()  # of a frame

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, part: slice) -> Tensor:
        """A copy of these frames."""
        start, stop, _ = part.indices(len(self))
        frames = torch.empty(stop - start, *self._shape[1:], dtype=self._dtype)
        self._file.seek(start * self._bytes)
        self._file.readinto(frames.view(torch.uint8).numpy().reshape(-1).data)
        return frames

    def __setitem__(self, part: slice, frames: Tensor) -> None:
        """Write these frames; a single one is all of them."""
        start, stop, _ = part.indices(len(self))
        whole = frames.to("cpu", self._dtype).expand(stop - start, *self._shape[1:]).contiguous()
        self._file.seek(start * self._bytes)
        self._file.write(whole.view(torch.uint8).numpy().reshape(-1).data)


class Shared:
    """Frames of parts that overlap, each kept once. frames: numbers of all of them. room: where they are to be."""

    def __init__(self, frames: range, room: Room) -> None:
        self._numbers, self._room = frames, room
        self._frames: Frames | None = None

    def kept(self, frames: range, read: Tensor) -> Callable[[], Tensor]:
        """What gives those of a part from now on. read: what was read for it."""
        where = slice(frames.start - self._numbers.start, frames.stop - self._numbers.start)
        kept = self._frames = self._frames if self._frames is not None else self._room(len(self._numbers), read[:1])
        kept[where] = read
        return lambda: kept[where]


class Storage:
    """Keeps the frames of parts that are solved together: on the CPU in files, so that their number takes no memory.

    Those of a part alone are in memory, as are all where there is a GPU; what it is to fetch is pinned.
    """

    def __init__(self, parts: Sequence[Part], scratch: Path, gpu: bool) -> None:
        self.alone, self._scratch, self._gpu = len(parts) == 1, scratch, gpu
        self.measured, self.truth = (
            Shared(range(frames[0].start, frames[-1].stop), self.room)
            for frames in ([part.measured for part in parts], [part.true for part in parts])
        )

    def room(self, frames: int, like: Tensor) -> Frames:
        """For so many of the kind of `like`, (1, ...)."""
        shape = frames, *like.shape[1:]
        if self.alone or self._gpu:
            pinned = self._gpu and like.device.type == "cpu"
            return torch.empty(shape, dtype=like.dtype, device=like.device, pin_memory=pinned)
        return Spilled(self._scratch, shape, like.dtype)
