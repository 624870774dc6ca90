"""One clip from file to files: scene by scene and part by part, so that memory does not grow with the clip.

The worker's task and `vxl restore` both come through here.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from app.degradations import TemporalAverage, TemporalDownsample
from app.restoration import Restoration
from app.sizes import too_small_for_sdxl
from worker.comparison import Comparison
from worker.control import NotFinite
from worker.encode import ResultWriter
from worker.estimate import estimate
from worker.frame_report import FrameReport
from worker.lagging import Lagging
from worker.lane import Lane
from worker.learned import Learned
from worker.memory import give_back, keep_little, reused
from worker.micro_batch import Choice, choose, told
from worker.outcome import Outcome
from worker.scenes import Scan
from worker.solve import Problem, setup, solve_sections, stated_noise
from worker.solver.batches import MicroBatches
from worker.solver.misfit import misfits
from worker.solver.noise import Noise
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import DataStep, Section
from worker.solver.segments import Part, Timeline, crossfade, runs, without_mixing
from worker.solver.stages import Stage
from worker.source import Reader, Source
from worker.storage import Storage
from worker.timing import scene_times
from worker.video import ClipInfo, clip_info

RUN = 10  # times the frames of a part that are sampled together; after a window of 7 a twentieth of a long clip twice


class Follower(Reader, Protocol):
    """Is told how far the work is, of writing as of reading; whatever it raises ends it."""

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        """The solver will sample so many frames, with so many steps each and before."""

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        """The solver's callback. seconds: what the device took; None: the time since the last call."""


class Shown(NamedTuple):
    """Frames that are done, (T, 3, H, W) in [0, 1], from number `first` of their scene; truth: if the clip is clean."""

    first: int
    restored: Tensor
    lifted: Tensor
    truth: Tensor | None


class Posed(NamedTuple):
    """A part that is ready to be solved. truth: gives its true frames, if the clip is clean."""

    part: Part
    problem: Problem
    data_step: DataStep
    truth: Callable[[], Tensor] | None


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
        self.prior, self.wanted, self.follower, self.part_frames = prior, wanted, follower, part_frames
        self._comparison = Comparison(learned or Learned()) if wanted.simulate else None
        self.estimated = estimate(source, seen, follower.check) if wanted.blur else None
        self.stated = self.estimated.degradation if self.estimated else wanted.degradations()
        self.seen, self.info = seen, clip_info(source)
        self._source = Source(source, self.info, wanted, self.stated, mask, kernel, prior.device, follower)
        self.setup = setup(prior, self.stated, self._source.beside, wanted.solver, tile_pixels, wanted.tier)
        self._micro_batch, self._budget = micro_batch, budget
        self._chosen: tuple[Choice, MicroBatches] | None = None
        self._report = FrameReport()

    def run(self, directory: Path) -> Outcome:
        """Write output, preview and comparison into the directory. Raises NotFinite where the prior fails."""
        keep_little()
        seen = self.seen
        scenes = seen.scenes if self._may_cut() else [range(len(seen.pts))]
        timelines = [Timeline(self.setup.operator.operators, self._true_frames(len(scene))) for scene in scenes]
        plans = [runs(timeline.parts(self.part_frames), self._run_frames()) for timeline in timelines]
        count = sum(run[-1].true.stop - run[0].true.start for plan in plans for run in plan)
        sampling = self.setup.sampling
        self.follower.planned(count, len(sampling.schedule.timesteps), sampling.inversions)

        look, _ = self._times(scenes[0])
        with ResultWriter(directory, look, self.wanted.output) as results, Lane(2) as aside:
            outcome = Outcome(results.files, [], estimated=self.estimated)
            for scene, timeline, plan in zip(scenes, timelines, plans, strict=True):
                _, times = self._times(scene)
                self._report.cut()
                if self._comparison:
                    self._comparison.cut()
                for shown in self._solved(outcome, scene, timeline, plan, directory):
                    restored, lifted = _kept(shown.restored), _kept(shown.lifted)
                    for n in range(len(shown.restored)):
                        timestamp = times[shown.first + n]
                        if timestamp is None:
                            continue
                        results.add(restored[n], lifted[n], timestamp)
                        self._report.shown(restored[n], aside)
                        outcome.frames += 1
                        if self._comparison and shown.truth is not None:
                            self._comparison.add(shown.restored[n], shown.lifted[n], shown.truth[n])
                        self.follower.check()
                    self.follower.measured("encode", len(shown.restored))
                    outcome.height, outcome.width = shown.restored.shape[-2:]
                    del shown, restored, lifted  # of a whole part, and the next one is about to be solved
        self.follower.measured("encode", 0)  # the rest of it, which had nothing beside it
        small = None if self.prior.bundled else too_small_for_sdxl(outcome.width, outcome.height)
        window = next((step.window for step in self.stated if isinstance(step, TemporalAverage)), 0)
        outcome.warnings = [*results.left_out, *([small] if small else []), *self._report.warnings(window)]
        if self._chosen:
            outcome.settings["micro_batch"] = told(*self._chosen)
        outcome.per_frame = self._report.values()
        outcome.noise_sigma, outcome.residual, outcome.residual_before = self._report.means()
        outcome.compared = self._comparison.values() if self._comparison else {}
        return outcome

    # --- what happened to the clip

    def _may_cut(self) -> bool:
        """Whether scenes may be told apart: not where frames come along whose numbers differ from the clip's."""
        changes = any(
            isinstance(step, TemporalDownsample) or (isinstance(step, TemporalAverage) and step.boundary == "valid")
            for step in self.stated
        )
        return not (changes and (self.wanted.simulate or self._source.moves))

    def _run_frames(self) -> int:
        """How many true frames may be latents at a time."""
        return 0 if self._source.moves or self.setup.published else RUN * self.part_frames

    @property
    def _gpu(self) -> bool:
        return self.prior.device.type == "cuda"

    def _true_frames(self, frames: int) -> int:
        return frames if self.wanted.simulate else self.setup.operator.clip_shape((frames, 3, 1, 1))[0]

    def _times(self, scene: range) -> tuple[ClipInfo, list[int | None]]:
        """How the result's clock runs, and when the true frames of a scene are shown; None: never."""
        return scene_times(self.info, self.seen.pts, scene, None if self.wanted.simulate else self.setup.operator)

    # --- solving

    def _solved(
        self, outcome: Outcome, scene: range, timeline: Timeline, plan: list[list[Part]], scratch: Path
    ) -> Iterator[Shown]:
        """The true frames of a scene, in order, where parts overlap cross-faded."""
        parts = [part for run in plan for part in run]
        end = Part(*(range(count, count) for count in (timeline.measured, timeline.frames)))
        later = iter([*parts[1:], end])
        noise = None if self.wanted.noise_sigma is None else stated_noise(self.wanted.noise_sigma)
        held: tuple[Tensor, Tensor] | None = None
        for run in plan:
            for one, x in self._solve(scene, timeline, run, noise, Storage(run, scratch, self._gpu)):
                if x.sum().isnan():  # a clamped clip has nothing else that is not finite
                    raise NotFinite
                then, lifted = next(later), one.problem.lifted
                self._explained(scene, one, x, then.measured.start - one.part.measured.start)
                outcome.settings = outcome.settings or one.problem.settings(one.data_step)
                restored, lifted = (z.clamp_(-1, 1).add_(1).div_(2) for z in (x, lifted))
                if held is not None:
                    both = len(held[0])
                    if one.part is run[0]:  # of two parts of a run the loop has seen to it
                        restored[:both] = crossfade(held[0], restored[:both])
                    lifted[:both] = crossfade(held[1], lifted[:both])
                now = then.true.start - one.part.true.start
                truth = None if one.truth is None else one.truth()[:now]
                yield Shown(one.part.true.start, restored[:now], lifted[:now], truth)
                held = (restored[now:].clone(), lifted[now:].clone())  # views would hold the whole part
                noise = one.problem.noise
                del one, x, restored, lifted, truth
            give_back()
        assert noise is not None  # a scene has a part
        told = {f"noise_{name}": value for name, value in asdict(noise).items() if name != "measured"}
        outcome.scenes.append({"frames": [scene.start, scene.stop], **told, "parts": len(parts)})
        self._source.scene_is_over(timeline)

    def _posed(
        self,
        scene: range,
        timeline: Timeline,
        part: Part,
        store: Storage,
        noise: Noise | None,
        like: Problem | None = None,
    ) -> Posed:
        """A part, read and ready. store: keeps its frames. noise, like: that of the part before, and what it was."""
        self.follower.watch("invert", 0)  # what came before is the solver's, and reading is not
        measured, truth = self._source.take(scene, timeline, part)
        read = store.measured.kept(part.measured, measured)
        problem = self.setup.pose(read(), noise, self._source.operators(timeline, part), like)
        problem = replace(self._fitting(problem, scene, timeline, part), measured=read)
        clean = None if truth is None else store.truth.kept(part.true, truth)
        return Posed(part, problem, problem.data_step(hold=store.alone), clean)

    def _explained(self, scene: range, one: Posed, x: Tensor, frames: int) -> None:
        """Report how well a part explains its measured frames, so many of which no later part has."""
        after, before = one.problem.residuals(x, frames), one.problem.unexplained[:frames]
        values = one.problem.shape[1:].numel()
        self._report.explained(scene.start + one.part.measured.start, after, before, one.problem.noise, values)
        self._report.fitted(getattr(one.data_step, "unsolved", []))

    def _batches(self, one: Posed) -> MicroBatches:
        """How many frames go through the prior at a time: chosen at the first part, for all of them."""
        if self._chosen is None:
            (height, width), frames = one.problem.tiling.tile, len(one.part.true)
            choice = choose(self.prior, self.prior.device, height, width, frames, self._micro_batch, self._budget)
            self._chosen = choice, MicroBatches(choice.size, nullcontext if self._gpu else reused)
        return self._chosen[1]

    def _solve(
        self, scene: range, timeline: Timeline, parts: list[Part], noise: Noise | None, store: Storage
    ) -> Iterator[tuple[Posed, Tensor]]:
        """The parts of a run and their true frames, (T, 3, H, W) in [-1, 1]; each is read once the loop takes it up."""
        posed = [self._posed(scene, timeline, parts[0], store, noise)]
        stay = not (store.alone or self._gpu)  # between them, what is freed is left in pieces

        def nth(n: int) -> Posed:
            if n == len(posed):
                before = posed[-1].problem
                posed.append(self._posed(scene, timeline, parts[n], store, before.noise, before))
            return posed[n]

        def fit(n: int, x: Tensor, t: int) -> Tensor:
            fitted = nth(n).data_step(x, t)
            if stay:
                give_back()
            return fitted

        def section(n: int) -> Section:
            return Section(parts[n].true, lambda: nth(n).problem.lifted, lambda x, t: fit(n, x, t))

        first, settings, batches = posed[0].problem, self.wanted.solver, self._batches(posed[0])
        sections = [section(n) for n in range(len(parts))]
        lagging = Lagging(self.follower.watch, self.follower.check) if self._gpu else None
        watch = lagging.watch if lagging else self.follower.watch
        for n, x in enumerate(solve_sections(self.prior, first, sections, settings, watch, batches, store.room)):
            yield posed[n], x
        if lagging:
            lagging.finish()

    def _fitting(self, problem: Problem, scene: range, timeline: Timeline, part: Part) -> Problem:
        """The problem with the mean over time left out for those measured frames that it does not fit."""
        if problem.published or self._source.moves or timeline.only_average is None:
            return problem
        mix = timeline.only_average[part.measured.start : part.measured.stop, part.true.start : part.true.stop]
        odd = misfits(problem.y, mix, part.own, problem.codec_noise)
        self._report.dropped([scene.start + part.measured.start + n for n in odd])
        return problem.degraded_by(without_mixing(problem.operator, part, odd)) if odd else problem


def _kept(frames: Tensor) -> Tensor:
    """A copy in the host's memory, within an eighth of a level of 255."""
    return frames.to("cpu", torch.float16, copy=True)
