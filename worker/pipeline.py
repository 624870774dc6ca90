"""One clip from file to files: scene by scene and part by part, so that memory does not grow with the clip.

The worker's task and `vxl restore` both come through here.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from app.degradations import TemporalAverage, TemporalDownsample
from app.restoration import Restoration
from app.sizes import too_small_for_sdxl
from worker.board import Board
from worker.checkpoints import Checkpoints, StepKeeper
from worker.estimate import estimate
from worker.join import Joiner
from worker.lane import Lane
from worker.learned import Learned
from worker.memory import keep_little
from worker.micro_batch import Chosen
from worker.outcome import Outcome
from worker.plan import Plan
from worker.scenes import Scan
from worker.segment import Segment, SegmentWriter
from worker.solve import setup
from worker.solve_run import Follower, RunSolver
from worker.solver.prior import DiffusersPrior
from worker.source import Source
from worker.video import clip_info

SHARED = "shared"  # among the checkpoints: what all who solve runs of a clip have to do alike
OTHERS_SECONDS = 0.5  # between two looks at what others have finished


class Pipeline:
    """Restores one clip.

    seen: the source, scanned. mask, kernel: files that came with it. micro_batch: frames that go through the prior at a
    time; None: as many as memory holds, within `budget` bytes of a GPU. part_frames: true frames that are solved
    together. tile_pixels: larger frames go through the prior in tiles. learned: measures for simulations, besides those
    that need no network.
    Raises ValueError where what is asked cannot be done, as NotIdentified where the clip does not tell what happened to
    it.
    """

    def __init__(
        self,
        prior: DiffusersPrior,
        wanted: Restoration,
        source: Path,
        seen: Scan,
        mask: Path | None,
        kernel: Path | None,
        *,
        micro_batch: int | None,
        budget: int | None = None,
        part_frames: int,
        tile_pixels: int,
        follower: Follower,
        learned: Learned | None = None,
    ) -> None:
        self.prior, self.wanted, self.follower = prior, wanted, follower
        self._path = source
        self._learned = (learned or Learned()) if wanted.simulate else None  # else there is nothing to compare with
        self.estimated = estimate(source, seen, follower.check) if wanted.blur else None
        self.stated = self.estimated.degradation if self.estimated else wanted.degradations()
        info = clip_info(source)
        self._frames = partial(Source, source, info, wanted, self.stated, mask, kernel, prior.device, follower)
        frames = self._frames()
        self.setup = setup(prior, self.stated, frames.beside, wanted.solver, tile_pixels, wanted.tier)
        self.plan = Plan(
            info,
            seen,
            self.setup.operator,
            part_frames=part_frames,
            together=not (frames.moves or self.setup.published),
            cut=not (self._changes_number() and (wanted.simulate or frames.moves)),
            clean=wanted.simulate,
        )
        self._sizes = micro_batch, budget
        self._solver = RunSolver(prior, self.setup, self.plan, frames, wanted, follower, micro_batch, budget)
        self._next = 0  # number of the first run that the solver can do

    def run(self, directory: Path, checkpoints: Checkpoints | None = None, board: Board | None = None) -> Outcome:
        """Write output, preview and comparison into the directory. Raises NotFinite where the prior fails.

        checkpoints: where to go on, if another has begun, and where to keep how far this one comes. board: where to
        offer runs to others, who keep their segments there, too.
        """
        keep_little()
        sampling, plan = self.setup.sampling, self.plan
        self.follower.planned(plan.sampled, len(sampling.schedule.timesteps), sampling.inversions)
        made: dict[int, Future[Segment]] = {}
        if checkpoints and (shared := checkpoints.get(SHARED)):
            self._solver.take_over(shared.told)
        with Lane() as behind:  # where a segment is finished while the next one is solved
            for n in range(len(plan.runs)):
                self.follower.check()
                if before := self._found(n, checkpoints):
                    made[n] = behind.put(before)
            left = [n for n in range(len(plan.runs)) if n not in made]
            if checkpoints and board:
                self._solver.on_chosen = partial(self._offer, left, checkpoints, board)
            while left:
                for n in list(left):
                    self.follower.check()
                    finish = self._found(n, checkpoints)
                    if board and not board.take(n) and not finish:
                        continue  # another is at it
                    finish = finish or self._solved(n, directory, checkpoints)
                    left.remove(n)
                    for one in list(made.values())[-1:]:
                        one.result()
                    made[n] = behind.put(finish)
                if left:
                    time.sleep(OTHERS_SECONDS)
                    self.follower.measured("wait", 0)
                    self.follower.check()
        outcome = self._joined(directory, [made[n].result() for n in range(len(plan.runs))])
        self.follower.measured("encode", 0)  # the rest of it, which had nothing beside it
        return outcome

    def _offer(self, left: list[int], checkpoints: Checkpoints, board: Board, chosen: Chosen) -> None:
        """Give away what is left but for the first one, once others can know all that they have to do alike."""
        self._solver.on_chosen = lambda chosen: None
        checkpoints.put(SHARED, {}, chosen.kept())
        checkpoints.written()
        if checkpoints.get(SHARED):  # the store may be away, and who helps has to read it
            board.offer(left[1:])

    def help(self, n: int, directory: Path, checkpoints: Checkpoints) -> bool:
        """Solve a run of a clip that another offers; False where it would come out otherwise here."""
        found = checkpoints.get(SHARED)
        if found is None or n >= len(self.plan.runs):
            return False
        self._solver.take_over(found.told)
        self.solve(n, directory, checkpoints)
        return True

    def solve(self, n: int, directory: Path, checkpoints: Checkpoints) -> None:
        """Solve one run and keep its segment, for another to join. Runs have to come in order; any may be left out."""
        keep_little()
        sampling = self.setup.sampling
        self.follower.planned(len(self.plan.runs[n].frames), len(sampling.schedule.timesteps), sampling.inversions)
        self._solved(n, directory, checkpoints)()

    def _changes_number(self) -> bool:
        """Whether there are more true frames than measured ones."""
        return any(
            isinstance(step, TemporalDownsample) or (isinstance(step, TemporalAverage) and step.boundary == "valid")
            for step in self.stated
        )

    def _found(self, n: int, checkpoints: Checkpoints | None) -> Callable[[], Segment] | None:
        """What gives the segment of a run that was finished before."""
        found = checkpoints.get(_segment(n)) if checkpoints else None
        if found is None:
            return None
        run = self.plan.runs[n]
        self._solver.know(run.scene, found.told)
        self._resumed(n, len(self.setup.sampling.schedule.timesteps), found.told)
        return lambda: Segment(*found)

    def _solved(self, n: int, directory: Path, checkpoints: Checkpoints | None) -> Callable[[], Segment]:
        """Solve a run; what gives its segment, once the rest of it is encoded."""
        run, look = self.plan.runs[n], self.plan.look
        if n < self._next:
            self._go_back()
        self._next = n + 1
        keeper = StepKeeper(checkpoints, f"steps-{n}", directory)
        before = self.follower.spent()
        keeper.spent = lambda: {stage: x - before.get(stage, 0) for stage, x in self.follower.spent().items()}
        if keeper.steps is not None:
            self._resumed(n, keeper.steps, keeper.told)
        into, frames = directory / _segment(n), len(run.frames)
        told: dict[str, Any] = {}
        with ExitStack() as files:
            segment = SegmentWriter(into, look, self.wanted.output.crf, frames, run.head, run.tail, self._learned)
            files.enter_context(segment)
            shown = run.frames.start
            for some in self._solver.solved(run, segment.report, directory, keeper, told):
                now = range(shown, shown + len(some["restored"]))
                segment.add(some, self.plan.times(run.scene, now), self.follower.check)
                self.follower.measured("encode", len(now))
                shown = now.stop
                del some  # of a whole part, and the next one is about to be solved
            rest = files.pop_all()
        told["spent"] = keeper.spent()

        def finish() -> Segment:
            rest.close()
            whole = segment.segment(told)
            if checkpoints:
                checkpoints.put(_segment(n), whole.files, whole.told, over=keeper.name)
            return whole

        return finish

    def _go_back(self) -> None:
        """Read the clip anew: another gave up a run that lies behind."""
        before = self._solver
        again = RunSolver(self.prior, self.setup, self.plan, self._frames(), self.wanted, self.follower, *self._sizes)
        again.chosen, again.noise = before.chosen, before.noise
        self._solver = again

    def _resumed(self, n: int, steps: int, told: dict[str, Any]) -> None:
        frames = len(self.plan.runs[n].frames)
        self.follower.resumed(frames, self.setup.sampling.inversions, steps, told["spent"])

    def _joined(self, directory: Path, segments: list[Segment]) -> Outcome:
        """What comes of all segments together."""
        sound = self._path if self.wanted.output.audio == "copy" else None
        joiner = Joiner(self.plan, self.wanted.output.crf, self._learned, self.follower.check)
        files, left_out = joiner.join(directory, segments, sound)
        height, width = segments[0].told["size"]
        outcome = Outcome(files, left_out, width, height, joiner.frames, estimated=self.estimated)
        if not self.prior.bundled and (small := too_small_for_sdxl(width, height)):
            outcome.warnings.append(small)
        window = next((step.window for step in self.stated if isinstance(step, TemporalAverage)), 0)
        outcome.warnings += joiner.report.warnings(window)
        outcome.settings = segments[0].told["settings"]
        if chosen := self._solver.chosen:
            outcome.settings["micro_batch"] = chosen.told()
        outcome.per_frame = joiner.report.values()
        outcome.noise_sigma, outcome.residual, outcome.residual_before = joiner.report.means()
        outcome.compared = joiner.compared.values() if joiner.compared else {}
        outcome.scenes = self._scenes(segments)
        return outcome

    def _scenes(self, segments: list[Segment]) -> list[dict[str, Any]]:
        """For each its frames in the file, its noise, and in how many parts it was solved."""
        found: list[dict[str, Any]] = []
        for run, segment in zip(self.plan.runs, segments, strict=True):
            if run.scene == len(found):
                scene = self.plan.scenes[run.scene]
                noise = {f"noise_{name}": x for name, x in segment.told["noise"].items() if name != "measured"}
                found.append({"frames": [scene.start, scene.stop], **noise, "parts": 0})
            found[-1]["parts"] += len(run.parts)
        return found


def _segment(n: int) -> str:
    return f"segment-{n}"
