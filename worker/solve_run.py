"""A run of parts solved: parts that are sampled together, each read once the loop takes it up."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from app.restoration import Restoration
from worker.checkpoints import StepKeeper
from worker.control import NotFinite
from worker.frame_report import FrameReport
from worker.lagging import Lagging
from worker.memory import give_back, reused
from worker.micro_batch import Chosen, choose
from worker.plan import Plan, Run
from worker.solve import Problem, Setup, solve_sections, stated_noise
from worker.solver.batches import MicroBatches
from worker.solver.data_step import Proximal
from worker.solver.misfit import misfits
from worker.solver.noise import Noise
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import DataStep, Section
from worker.solver.segments import Part, crossfade, without_mixing
from worker.solver.stages import Stage
from worker.source import Reader, Source
from worker.storage import Storage


class Follower(Reader, Protocol):
    """Is told how far the work is, of writing as of reading; whatever it raises ends it."""

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        """The solver will sample so many frames, with so many steps each and before."""

    def resumed(self, frames: int, inversions: int, steps: int, spent: dict[str, float]) -> None:
        """So many frames have taken so many steps of each kind before; spent: seconds of each stage that it took."""

    def spent(self) -> dict[str, float]:
        """Seconds that each stage took so far, what was done before among them."""

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        """The solver's callback. seconds: what the device took; None: the time since the last call."""


class Posed(NamedTuple):
    """A part that is ready to be solved. truth: gives its true frames, if the clip is clean."""

    part: Part
    problem: Problem
    data_step: DataStep
    truth: Callable[[], Tensor] | None


class RunSolver:
    """Solves the runs of a clip, each apart from the others; they have to come in order, but any may be left out.

    micro_batch, budget: as Pipeline takes them.

    noise: of each scene, by its number, once it is known. chosen: how many frames go through the prior at a time, once
    that is; for all runs the same. on_chosen: told of it at each run, before it is sampled.
    """

    def __init__(
        self,
        prior: DiffusersPrior,
        setup: Setup,
        plan: Plan,
        source: Source,
        wanted: Restoration,
        follower: Follower,
        micro_batch: int | None,
        budget: int | None,
    ) -> None:
        self._prior, self._setup, self._plan, self._source = prior, setup, plan, source
        self._wanted, self._follower = wanted, follower
        self._micro_batch, self._budget = micro_batch, budget
        self._gpu = prior.device.type == "cuda"
        self._scene = 0  # that the source is at
        self.chosen: Chosen | None = None
        self.noise: dict[int, Noise] = {}
        self.on_chosen: Callable[[Chosen], object] = lambda chosen: None

    def know(self, scene: int, told: dict[str, Any]) -> None:
        """Take over what another, who solved a run of this scene, told of it."""
        self.noise[scene] = Noise(**told["noise"] | {"rise": tuple(told["noise"]["rise"])})
        self.take_over(told["micro_batch"])

    def take_over(self, micro_batch: dict[str, Any]) -> None:
        """Have as many frames go at a time as another that solves this clip."""
        self.chosen = self.chosen or Chosen.again(micro_batch, self._around)

    def told(self, scene: int) -> dict[str, Any]:
        """What `know` takes, ready for JSON."""
        assert self.chosen is not None
        return {"noise": asdict(self.noise[scene]), "micro_batch": self.chosen.kept()}

    def solved(
        self, run: Run, report: FrameReport, scratch: Path, keeper: StepKeeper, told: dict[str, Any]
    ) -> Iterator[dict[str, Tensor]]:
        """The true frames of a run in order, part by part: `restored`, `lifted`, `truth` where it is known.

        Each is (T, 3, H, W) in [0, 1]. told: takes what the solver ran with.
        """
        self._go_to(run.scene)
        ends = [(part.measured.start, part.true.start) for part in run.parts[1:]] + [(run.until, run.frames.stop)]
        lifted_before: Tensor | None = None
        for (one, x), (measured_end, end) in zip(self._parts(run, report, scratch, keeper), ends, strict=True):
            if x.sum().isnan():  # a clamped clip has nothing else that is not finite
                raise NotFinite
            self._explained(run, report, one, x, measured_end - one.part.measured.start)
            told.setdefault("settings", one.problem.settings(one.data_step))
            lifted = one.problem.lifted
            restored, lifted = (z.clamp_(-1, 1).add_(1).div_(2) for z in (x, lifted))
            if lifted_before is not None:  # of what is restored the loop has seen to it
                both = len(lifted_before)
                lifted[:both] = crossfade(lifted_before, lifted[:both])
            now = end - one.part.true.start
            truth = {} if one.truth is None else {"truth": one.truth()[:now]}
            yield {"restored": restored[:now], "lifted": lifted[:now]} | truth
            lifted_before = lifted[now:].clone()  # a view would hold the whole part
            del one, x, restored, lifted, truth
        told |= self.told(run.scene)
        give_back()

    def _go_to(self, scene: int) -> None:
        while self._scene < scene:
            self._source.scene_is_over(self._plan.timelines[self._scene])
            self._scene += 1

    def _parts(
        self, run: Run, report: FrameReport, scratch: Path, keeper: StepKeeper
    ) -> Iterator[tuple[Posed, Tensor]]:
        """The parts of a run and their true frames, (T, 3, H, W) in [-1, 1]; each is read once the loop takes it up."""
        store = Storage(run.parts, scratch, self._gpu)
        histories: list[dict[str, list[Any]]] = keeper.told.get("data_steps", [])
        if keeper.told:
            self.know(run.scene, keeper.told)
        posed: list[Posed] = []
        stay = not (store.alone or self._gpu)  # between them, what is freed is left in pieces

        def nth(n: int) -> Posed:
            if n == len(posed):
                one = self._posed(run, report, n, store, posed[-1].problem if posed else None)
                if n < len(histories) and isinstance(one.data_step, Proximal):
                    one.data_step.go_on(histories[n])
                posed.append(one)
            return posed[n]

        def fit(n: int, x: Tensor, t: int) -> Tensor:
            fitted = nth(n).data_step(x, t)
            if stay:
                give_back()
            return fitted

        def section(n: int) -> Section:
            return Section(run.parts[n].true, lambda: nth(n).problem.lifted, lambda x, t: fit(n, x, t))

        def tell() -> dict[str, Any]:
            steps = [one.data_step.history for one in posed if isinstance(one.data_step, Proximal)]
            return self.told(run.scene) | {"data_steps": steps, "spent": keeper.spent()}

        keeper.tell = tell
        if run.scene not in self.noise and run.frames.start > 0:
            self.noise[run.scene] = self._noise_of(run.scene)
        first, settings = nth(0).problem, self._wanted.solver
        self.noise[run.scene] = first.noise
        batches = self._batches(posed[0])
        if self.chosen:
            self.on_chosen(self.chosen)
        sections = [section(n) for n in range(len(run.parts))]
        lagging = Lagging(self._follower.watch, self._follower.check) if self._gpu else None
        watch = lagging.watch if lagging else self._follower.watch
        found = solve_sections(self._prior, first, sections, settings, watch, batches, store.room, keeper)
        for n, x in enumerate(found):
            yield posed[n], x
        if lagging:
            lagging.finish()

    def _noise_of(self, scene: int) -> Noise:
        """As the first part of a scene shows it, where another has solved that, or will."""
        timeline = self._plan.timelines[scene]
        part = next(run.parts[0] for run in self._plan.runs if run.scene == scene)
        measured, _ = self._source.take(self._plan.scenes[scene], timeline, part)
        return self._setup.pose(measured, self._stated_noise, self._source.operators(timeline, part)).noise

    @property
    def _stated_noise(self) -> Noise | None:
        sigma = self._wanted.noise_sigma
        return None if sigma is None else stated_noise(sigma)

    def _posed(self, run: Run, report: FrameReport, n: int, store: Storage, like: Problem | None) -> Posed:
        """The n-th part of a run, read and ready. store: keeps its frames. like: what the part before it was."""
        self._follower.watch("invert", 0)  # what came before is the solver's, and reading is not
        part, scene, timeline = run.parts[n], self._plan.scenes[run.scene], self._plan.timelines[run.scene]
        measured, truth = self._source.take(scene, timeline, part)
        read = store.measured.kept(part.measured, measured)
        noise = self.noise.get(run.scene) or self._stated_noise
        problem = self._setup.pose(read(), noise, self._source.operators(timeline, part), like)
        problem = replace(self._fitting(problem, run, part, report), measured=read)
        clean = None if truth is None else store.truth.kept(part.true, truth)
        return Posed(part, problem, problem.data_step(hold=store.alone), clean)

    def _fitting(self, problem: Problem, run: Run, part: Part, report: FrameReport) -> Problem:
        """The problem with the mean over time left out for those measured frames that it does not fit."""
        average = self._plan.timelines[run.scene].only_average
        if problem.published or self._source.moves or average is None:
            return problem
        mix = average[part.measured.start : part.measured.stop, part.true.start : part.true.stop]
        odd = misfits(problem.y, mix, part.own, problem.codec_noise)
        report.dropped([self._plan.scenes[run.scene].start + part.measured.start + n for n in odd])
        return problem.degraded_by(without_mixing(problem.operator, part, odd)) if odd else problem

    def _explained(self, run: Run, report: FrameReport, one: Posed, x: Tensor, frames: int) -> None:
        """Report how well a part explains its measured frames, so many of which no later part has."""
        after, before = one.problem.residuals(x, frames), one.problem.unexplained[:frames]
        values = one.problem.shape[1:].numel()
        first = self._plan.scenes[run.scene].start + one.part.measured.start
        report.explained(first, after, before, one.problem.noise, values)
        report.fitted(getattr(one.data_step, "unsolved", []))

    @property
    def _around(self) -> Callable[[], AbstractContextManager[None]]:
        """What each pass over frames is done within."""
        return nullcontext if self._gpu else reused

    def _batches(self, one: Posed) -> MicroBatches:
        """How many frames go through the prior at a time: chosen at the first part, for all of them."""
        if self.chosen is None:
            (height, width), frames = one.problem.tiling.tile, len(one.part.true)
            choice = choose(self._prior, self._prior.device, height, width, frames, self._micro_batch, self._budget)
            self.chosen = Chosen(choice, MicroBatches(choice.size, self._around))
        return self.chosen.batches
