"""What a run of parts gives: a segment of the result. Segments are made apart from one another, and joined in the end.

Frames that are a segment's alone are encoded, as files that begin with a frame of their own. Those that it shares with
its neighbours go along as they are, to be cross-faded by whoever joins both (worker/join.py).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker.checkpoints import Kept
from worker.comparison import Comparison
from worker.encode import ResultWriter
from worker.frame_report import FrameReport
from worker.lane import Lane
from worker.learned import Learned
from worker.video import ClipInfo

STRIPS = "strips"  # beside the names of RESULT_FILES

# Frames that are done, by what they are: `restored`, `lifted` (what the solver started from) and, where it is known,
# `truth`; each (T, 3, H, W) in [0, 1], float16 in the host's memory.
Strip = dict[str, Tensor]


def kept(frames: Tensor) -> Tensor:
    """A copy in the host's memory, within an eighth of a level of 255."""
    return frames.to("cpu", torch.float16, copy=True)


class Segment(Kept):
    """files: those of RESULT_FILES that clips of it are in, if it has frames of its own; and its strips. told: numbers.

    strips: `head` and `tail`, which it shares with its neighbours; `first` and `last`, the outermost of its own frames.
    """

    def strip(self, place: str) -> Strip | None:
        """Read from the file; None where there is none."""
        with safe_open(self.files[STRIPS], "pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{place}.")]  # noqa: SIM118 - no dict
            return {name.partition(".")[2]: file.get_tensor(name) for name in names} or None


class SegmentWriter:
    """Takes the frames of a run in order, and encodes those that are not shared while the next ones are made.

    directory: for its files, its own. look, crf: of the files. head, tail: how many frames are shared, of `frames`
    in all. learned: None where the truth is not known.

    report, compared: what is to be told of the frames.
    """

    def __init__(
        self,
        directory: Path,
        look: ClipInfo,
        crf: int,
        frames: int,
        head: int = 0,
        tail: int = 0,
        learned: Learned | None = None,
    ) -> None:
        directory.mkdir()
        self.report = FrameReport()
        self.compared = Comparison(learned) if learned else None
        self._directory, self._look, self._crf = directory, look, crf
        self._own = range(head, frames - tail)
        self._taken = self._encoded = 0
        self._strips: dict[str, list[Strip]] = {"head": [], "tail": []}
        self._edges: dict[str, Strip] = {}
        self._stack = ExitStack()
        self._results: ResultWriter | None = None
        self._size = torch.Size()

    def __enter__(self) -> Self:
        self._aside = self._stack.enter_context(Lane(2))
        return self

    def add(self, frames: dict[str, Tensor], times: Sequence[int | None], each: Callable[[], None]) -> None:
        """The next frames, as in a Strip but in any type and place, and when they are shown; None: never.

        each: called after every one of them.
        """
        small = {name: kept(x) for name, x in frames.items()}
        for n, time in enumerate(times):
            one = {name: x[n : n + 1].clone() for name, x in small.items()}  # a view would hold all of them
            if self._taken not in self._own:
                self._strips["head" if self._taken < self._own.start else "tail"].append(one)
            elif time is not None:
                self._show({name: x[n] for name, x in frames.items()}, one, time)
            self._taken += 1
            each()
        self._size = frames["restored"].shape[-2:]

    def _show(self, exact: dict[str, Tensor], one: Strip, time: int) -> None:
        if self._results is None:
            self._results = self._stack.enter_context(ResultWriter(self._directory, self._look, self._crf))
            self._edges["first"] = one
        self._edges["last"] = one
        self._results.add(one["restored"][0], one["lifted"][0], time)
        self.report.shown(one["restored"][0], self._aside)
        if self.compared:
            self.compared.add(exact["restored"], exact["lifted"], exact["truth"])
        self._encoded += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def segment(self, told: dict[str, Any]) -> Segment:
        """What came of it, once the context has ended well. told: what else there is to tell."""
        strips = {place: _joined(frames) for place, frames in self._strips.items() if frames} | self._edges
        path = self._directory / f"{STRIPS}.safetensors"
        save_file({f"{place}.{n}": x.clone() for place, one in strips.items() for n, x in one.items()}, path)
        files = self._results.files if self._results else {}
        numbers = {
            "frames": self._encoded,
            "size": list(self._size),
            "report": self.report.told(),
            "compared": self.compared.told() if self.compared else None,
        }
        return Segment(files | {STRIPS: path}, told | numbers)


def _joined(frames: Sequence[Strip]) -> Strip:
    return {name: torch.cat([one[name] for one in frames]) for name in frames[0]}
