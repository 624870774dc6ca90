"""How far a job is, and where its time goes."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import structlog
from redis.exceptions import RedisError

from app.contract import Progress
from app.records import Records
from worker.board import Board
from worker.control import Control
from worker.solver.stages import STAGES, Stage

log = structlog.get_logger(__name__)

EVERY_SECONDS = 0.5
RETRY_TIMES = 10  # as long as a try took that failed, until the next one
# How much of a whole job (100) lies before and after the solver. A step of inversion costs about a third of a sampler
# step, which also passes through the autoencoder twice.
BEFORE, AFTER = 2.0, 6.0
INVERSION_SHARE = 0.3


class Meter:
    """Follows one job: tells Redis how far it is, the worker that it lives, the metrics what each stage took.

    `watch` is the solver's callback. It is where a job stops: raises Canceled or Preempted when the worker says so.
    """

    def __init__(self, job_id: str, task: str, control: Control, records: Records, run: int | None = None) -> None:
        """run: the one that is helped with, of another worker's job, whose progress is told to that."""
        self.job_id, self.task, self.control, self.records, self.run = job_id, task, control, records, run
        self.board, self._far = Board(records.redis, job_id, control.ticket), (0, 0)
        self._held = (ticket.registry, ticket.entry) if (ticket := control.ticket) else None
        self.stages: dict[str, float] = defaultdict(float)
        self._before: dict[str, float] = defaultdict(float)
        self._share_before = self._percent = 0.0
        self._last = self._started = time.monotonic()
        self._written = 0.0
        self._frames = self._steps = self._inversions = self._inverted = self._denoised = 0
        self._inverting = True

    def enter(self, stage: Literal["decoding", "encoding"], frames: int) -> None:
        """A stage outside the solver begins."""
        percent = 0.0 if stage == "decoding" else 100 - AFTER
        self._write(lambda: Progress(stage=stage, percent=percent, frames_total=frames))
        self.check()

    def measured(self, stage: str, frames: int, seconds: float | None = None) -> None:
        """`frames` went through `stage` since the last call, or in so many seconds of the device's.

        `wait`: for others, whose progress is the job's.
        """
        now = time.monotonic()
        spent = now - self._last if seconds is None else seconds
        self._last = now
        self.stages[stage] += spent
        for _ in range(frames):
            self.control.observe("visionxl_frame_stage_duration_seconds", spent / frames, task=self.task, stage=stage)
        if stage == "wait":
            self._write_in_time()

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        """The solver begins to sample so many frames, with so many steps each and before."""
        self._frames, self._steps, self._inversions = frames, steps, inversions
        self._last = self._started = time.monotonic()

    def resumed(self, frames: int, inversions: int, steps: int, spent: dict[str, float]) -> None:
        """So many frames came that far before, in an earlier attempt. spent: seconds of each stage that it took."""
        self._inverted += frames * inversions
        self._denoised += frames * steps
        self._inverting = False
        for stage, seconds in spent.items():
            self._before[stage] += seconds
        self._share_before = self._share()

    def spent(self) -> dict[str, float]:
        """Seconds that each stage took so far, in this attempt and before it."""
        return {
            stage: self._before.get(stage, 0) + self.stages.get(stage, 0) for stage in {**self._before, **self.stages}
        }

    @property
    def solver_seconds(self) -> float:
        """What the solver took so far, without reading and writing files."""
        spent = self.spent()
        return sum(spent.get(stage, 0) for stage in STAGES)

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        """The solver's callback, after each piece of work."""
        self.measured(stage, frames, seconds)
        self._inverting = stage == "invert"
        if stage == "invert":
            self._inverted += frames
        elif stage == "denoise":
            self._denoised += frames
        self._write_in_time()
        self.check()

    def done(self) -> None:
        """All files are made."""
        pace = self.solver_seconds / max(1, self._frames)
        total = self._frames * self._steps
        done = Progress(
            stage="done", percent=100, frames_done=total, frames_total=total, seconds_per_frame=round(pace, 3)
        )
        self._write(lambda: done)

    def check(self) -> None:
        """Live, or stop where the worker says so."""
        self.control.go_on()

    def _progress(self) -> Progress:
        """Of all that work on the job."""
        self._far = self.board.far()
        inverted, denoised = self._all()
        inversion, share = self._frames * self._inversions, self._share()
        # What others did in a step that they did not end is done again, which nobody wants to see.
        self._percent = max(self._percent, round(BEFORE + share * (100 - BEFORE - AFTER), 1))
        elapsed, made = time.monotonic() - self._started, share - self._share_before
        whole = elapsed / made if made > 0 else None
        return Progress(
            stage="inverting" if self._inverting else "sampling",
            percent=self._percent,
            frames_done=inverted if self._inverting else denoised,
            frames_total=inversion if self._inverting else self._frames * self._steps,
            seconds_per_frame=round(whole / self._frames, 3) if whole else None,
            eta_seconds=round(whole * (1 - share), 1) if whole else None,
        )

    def _share(self) -> float:
        """How much of the solver's work is done."""
        total = self._frames * (self._steps + self._inversions * INVERSION_SHARE)
        inverted, denoised = self._all()
        return min(1.0, (inverted * INVERSION_SHARE + denoised) / total)

    def _all(self) -> tuple[int, int]:
        """Frames that were inverted and denoised, here and by who helps: frames times steps."""
        return self._inverted + self._far[0], self._denoised + self._far[1]

    def _write_in_time(self) -> None:
        """At most twice a second."""
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self._write(self._progress)

    def _write(self, progress: Callable[[], Progress]) -> None:
        """Never a reason to fail: progress may be lost, work may not."""
        self._written = began = time.monotonic()
        try:
            if self.run is None:
                self.records.progress(self.job_id, progress(), self._held)
            else:
                self.board.tell(self.run, self._inverted, self._denoised)
        except RedisError as error:
            # Where Redis does not even refuse, each try costs seconds in which nothing is solved.
            self._written += RETRY_TIMES * (time.monotonic() - began)
            log.warning("progress is not recorded", error=str(error))
