"""How a clip is cut up: scenes, parts that are solved together, and runs of parts that are sampled together.

It follows from the clip and the request alone, whoever solves what.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.scenes import Scan
from worker.solver.operators import Chain
from worker.solver.segments import Part, Timeline, runs
from worker.timing import scene_times
from worker.video import ClipInfo

TOGETHER = (
    10  # times the frames of a part that are sampled together; after a window of 7 a twentieth of a long clip twice
)
ASIDE = 4  # the same where parts do not overlap: so many are one file, which begins with a frame of its own


@dataclass(frozen=True)
class Run:
    """Parts of one scene that are sampled together, apart from all others.

    scene: its number. head, tail: how many of its true frames the run before, and the one after, has, too. until: the
    first measured frame that is a later run's.
    """

    scene: int
    parts: list[Part]
    head: int
    tail: int
    until: int

    @property
    def frames(self) -> range:
        """Numbers of its true frames in the scene."""
        return range(self.parts[0].true.start, self.parts[-1].true.stop)


class Plan:
    """scenes: frames of the file. timelines: of each. runs: all, in order. look: how the result's clock runs."""

    def __init__(
        self, info: ClipInfo, seen: Scan, operator: Chain, *, part_frames: int, together: bool, cut: bool, clean: bool
    ) -> None:
        """operator: what happened to the clip. together: whether parts may be sampled together. cut: whether scenes may
        be told apart. clean: whether the file holds true frames."""
        self.scenes = seen.scenes if cut else [range(len(seen.pts))]
        counts = [len(s) if clean else operator.clip_shape((len(s), 3, 1, 1))[0] for s in self.scenes]
        self.timelines = [Timeline(operator.operators, count) for count in counts]
        self.runs: list[Run] = []
        for number, timeline in enumerate(self.timelines):
            parts = timeline.parts(part_frames)
            overlap = len(parts) > 1 and parts[1].true.start < parts[0].true.stop
            length = (TOGETHER if overlap else ASIDE) * part_frames if together else 0
            self.runs += _runs(number, runs(parts, length))
        timed = [scene_times(info, seen.pts, scene, None if clean else operator) for scene in self.scenes]
        self.look = timed[0][0]
        self._times = [times for _, times in timed]

    @property
    def sampled(self) -> int:
        """How many frames all runs have, those of two runs twice."""
        return sum(len(run.frames) for run in self.runs)

    def times(self, scene: int, frames: range) -> list[int | None]:
        """When these true frames of a scene are shown, in ticks of the look; None: never."""
        return self._times[scene][frames.start : frames.stop]


def _runs(scene: int, grouped: Sequence[list[Part]]) -> Iterator[Run]:
    for before, parts, after in zip([None, *grouped], grouped, [*grouped[1:], None], strict=False):
        head = max(0, before[-1].true.stop - parts[0].true.start) if before else 0
        tail = max(0, parts[-1].true.stop - after[0].true.start) if after else 0
        yield Run(scene, parts, head, tail, after[0].measured.start if after else parts[-1].measured.stop)
