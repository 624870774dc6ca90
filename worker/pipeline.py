"""One clip from file to files: scene by scene and part by part, so that memory does not grow with the clip.

The worker's task and `vxl restore` both come through here.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from app.degradations import Mask, TemporalAverage, TemporalDownsample
from app.restoration import Restoration
from app.sizes import too_small_for_sdxl
from worker.comparison import Comparison
from worker.control import NotFinite
from worker.encode import ResultWriter
from worker.estimate import estimate
from worker.frame_report import FrameReport, for_motion
from worker.frames import FrameWindow, clip_window, mask_window
from worker.lagging import Lagging
from worker.lane import Lane
from worker.learned import Learned
from worker.memory import give_back
from worker.micro_batch import Choice, choose, told
from worker.outcome import Outcome
from worker.scenes import Scan
from worker.simulate import random_mask, sent, size_at
from worker.solve import Problem, operator_of, setup, solve, stated_noise
from worker.solver.batches import MicroBatches
from worker.solver.misfit import misfits
from worker.solver.operators import Chain
from worker.solver.prior import DiffusersPrior
from worker.solver.restore import DataStep, Stage
from worker.solver.segments import Part, Timeline, crossfade, without_mixing
from worker.timing import restored_times
from worker.video import Beside, ClipInfo, clip_info, read_kernel

PLACEHOLDER = torch.ones(1, 1, 1, 1)  # for the frames of a moving mask, which come part by part


class Follower(Protocol):
    """Is told how far the work is; whatever it raises ends it."""

    def check(self) -> None:
        """Called after every frame that is read or written."""

    def measured(self, stage: str, frames: int) -> None:
        """So many frames went through a stage since the last call."""

    def planned(self, frames: int, steps: int, inversions: int) -> None:
        """The solver will take so many frames, those in two parts counted twice, with so many steps each and before."""

    def watch(self, stage: Stage, frames: int, seconds: float | None = None) -> None:
        """The solver's callback. seconds: what the device took; None: the time since the last call."""


class Shown(NamedTuple):
    """Frames that are done, (T, 3, H, W) in [0, 1], from number `first` of their scene; truth: if the clip is clean."""

    first: int
    restored: Tensor
    lifted: Tensor
    truth: Tensor | None


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
        self.clip = clip_window(source, follower.check)
        still, self._moving = self._masks(mask)
        beside = Beside(still, read_kernel(kernel) if kernel else None)
        self.setup = setup(prior, self.stated, beside, wanted.solver, tile_pixels, wanted.tier)
        self._micro_batch, self._budget = micro_batch, budget
        self._chosen: tuple[Choice, MicroBatches] | None = None
        self.real = operator_of(self.stated, beside, prior.device)
        self._mask_first = 0  # number, in the mask's file, of the first frame that goes with the scene at hand
        self._report = FrameReport()

    def run(self, directory: Path) -> Outcome:
        """Write output, preview and comparison into the directory. Raises NotFinite where the prior fails."""
        seen = self.seen
        scenes = seen.scenes if self._may_cut() else [range(len(seen.pts))]
        timelines = [Timeline(self.setup.operator.operators, self._true_frames(len(scene))) for scene in scenes]
        plans = [timeline.parts(self.part_frames) for timeline in timelines]
        count = sum(len(part.true) for parts in plans for part in parts)
        sampling = self.setup.sampling
        self.follower.planned(count, len(sampling.schedule.timesteps), sampling.inversions)

        look, _ = self._times(scenes[0])
        with ResultWriter(directory, look, self.wanted.output) as results, Lane() as aside:
            outcome = Outcome(results.files, [], estimated=self.estimated)
            for scene, timeline, parts in zip(scenes, timelines, plans, strict=True):
                _, times = self._times(scene)
                aside.put(self._report.cut)
                if self._comparison:
                    self._comparison.cut()
                for shown in self._solved(outcome, scene, timeline, parts):
                    for n in range(len(shown.restored)):
                        timestamp = times[shown.first + n]
                        if timestamp is None:
                            continue
                        results.add(shown.restored[n], shown.lifted[n], timestamp)
                        aside.put(self._report.shown, for_motion(shown.restored[n]))
                        outcome.frames += 1
                        if self._comparison and shown.truth is not None:
                            self._comparison.add(shown.restored[n], shown.lifted[n], shown.truth[n])
                        self.follower.check()
                    self.follower.measured("encode", len(shown.restored))
                    outcome.height, outcome.width = shown.restored.shape[-2:]
                    del shown  # its frames are views of a whole part, and the next one is about to be solved
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

    def _masks(self, path: Path | None) -> tuple[Tensor | None, Callable[[range], Tensor] | None]:
        """A still mask, or a placeholder and what gives the frames of a moving one."""
        index, step = next(((n, s) for n, s in enumerate(self.stated) if isinstance(s, Mask)), (0, None))
        if step is None:
            return None, None
        if path is not None:
            mask = mask_window(path)
            return (PLACEHOLDER, mask.take) if isinstance(mask, FrameWindow) else (mask, None)
        if not self.wanted.simulate:
            return None, None
        height, width = size_at(self.stated, index, self.info.height, self.info.width)
        draw = random_mask(step, height, width, self.wanted.solver.seed)
        return (PLACEHOLDER, draw) if step.moving else (draw(range(1)), None)

    def _may_cut(self) -> bool:
        """Whether scenes may be told apart: not where frames come along whose numbers differ from the clip's."""
        changes = any(
            isinstance(step, TemporalDownsample) or (isinstance(step, TemporalAverage) and step.boundary == "valid")
            for step in self.stated
        )
        return not (changes and (self.wanted.simulate or self._moving))

    def _true_frames(self, frames: int) -> int:
        return frames if self.wanted.simulate else self.setup.operator.clip_shape((frames, 3, 1, 1))[0]

    def _times(self, scene: range) -> tuple[ClipInfo, list[int | None]]:
        """How the result's clock runs, and when the true frames of a scene are shown; None: never.

        Frames beyond a scene, which a `valid` average tells of, are shown at the ends of the clip alone: elsewhere the
        time is another scene's.
        """
        seen = self.seen
        pts = seen.pts[scene.start : scene.stop]
        if self.wanted.simulate:
            return self.info, list(pts)
        end = seen.pts[scene.stop] if scene.stop < len(seen.pts) else None
        look, times = restored_times(self.info, pts, self.setup.operator, end)
        scale = round(self.info.time_base / look.time_base)
        first = pts[0] * scale if scene.start else None
        last = None if end is None else end * scale
        return look, [
            None if (first is not None and t < first) or (last is not None and t >= last) else t for t in times
        ]

    # --- solving

    def _solved(self, outcome: Outcome, scene: range, timeline: Timeline, parts: list[Part]) -> Iterator[Shown]:
        """The true frames of a scene, in order, where parts overlap cross-faded."""
        stated = self.wanted.noise_sigma
        noise = None if stated is None else stated_noise(stated)
        held: tuple[Tensor, Tensor] | None = None
        ends = [part.true.start for part in parts[1:]] + [parts[-1].true.stop]
        for part, end in zip(parts, ends, strict=True):
            measured, truth = self._read(scene, timeline, part)
            problem = self.setup.pose(measured, noise, self._operators(timeline, part))
            noise = problem.noise
            problem = self._fitting(problem, scene, timeline, part)
            data_step = problem.data_step()
            x = self._solve(problem, data_step)
            if not x.isfinite().all():
                raise NotFinite
            after, before = problem.residuals(x), problem.residuals(problem.lifted)
            self._report.explained(
                scene.start + part.measured.start, after, before, problem.noise, problem.y[0].numel()
            )
            self._report.fitted(getattr(data_step, "unsolved", []))
            outcome.settings = outcome.settings or problem.settings(data_step)
            done = [(z.clamp(-1, 1) + 1) / 2 for z in (x, problem.lifted)]
            if held is not None:
                both = len(held[0])
                done = [torch.cat([crossfade(a, z[:both]), z[both:]]) for a, z in zip(held, done, strict=True)]
            now = end - part.true.start
            yield Shown(part.true.start, done[0][:now], done[1][:now], None if truth is None else truth[:now])
            held = (done[0][now:].clone(), done[1][now:].clone())  # views would hold the whole part
            del measured, truth, problem, data_step, x, done
            give_back()
        assert noise is not None  # a scene has a part
        told = {f"noise_{name}": value for name, value in asdict(noise).items() if name != "measured"}
        outcome.scenes.append({"frames": [scene.start, scene.stop], **told, "parts": len(parts)})
        if self._moving:
            index = next(n for n, step in enumerate(self.stated) if isinstance(step, Mask))
            self._mask_first += timeline.reaching[index]

    def _read(self, scene: range, timeline: Timeline, part: Part) -> tuple[Tensor, Tensor | None]:
        """The measured frames of a part, (T', 3, H', W'), and its true ones where the clip is clean."""
        if not self.wanted.simulate:
            measured = self.clip.take(_shifted(part.measured, scene.start))
            self.follower.measured("decode", len(measured))
            return measured, None
        real = Timeline(self.real.operators, timeline.frames)
        own = real.part(part.measured)
        wanted = range(min(part.true.start, own.true.start), max(part.true.stop, own.true.stop))
        clean = self.clip.take(_shifted(wanted, scene.start))
        self.follower.measured("decode", len(clean))
        truth, seen = (clean[r.start - wanted.start : r.stop - wanted.start] for r in (part.true, own.true))
        y = self._operators(real, own).A(seen.to(self.prior.device).float())
        seed, first = self.wanted.solver.seed, scene.start + part.measured.start
        return sent(y, self.wanted.noise_sigma or 0, seed, first), truth

    def _operators(self, timeline: Timeline, part: Part) -> Chain:
        if self._moving is None:
            return timeline.operators_of(part)
        frames = self._moving

        def moving(wanted: range) -> Tensor:
            return frames(_shifted(wanted, self._mask_first)).to(self.prior.device)

        return timeline.operators_of(part, moving)

    def _batches(self, problem: Problem) -> MicroBatches:
        """How many frames go through the prior at a time: chosen at the first part, for all of them."""
        if self._chosen is None:
            height, width = problem.tiling.tile
            frames, device = len(problem.lifted), self.prior.device
            choice = choose(self.prior, device, height, width, frames, self._micro_batch, self._budget)
            self._chosen = choice, MicroBatches(choice.size)
        return self._chosen[1]

    def _solve(self, problem: Problem, data_step: DataStep) -> Tensor:
        batches = self._batches(problem)
        if self.prior.device.type != "cuda":
            return solve(self.prior, problem, self.wanted.solver, self.follower.watch, data_step, batches)
        lagging = Lagging(self.follower.watch, self.follower.check)
        x = solve(self.prior, problem, self.wanted.solver, lagging.watch, data_step, batches)
        lagging.finish()
        return x

    def _fitting(self, problem: Problem, scene: range, timeline: Timeline, part: Part) -> Problem:
        """The problem with the mean over time left out for those measured frames that it does not fit."""
        if problem.published or self._moving or timeline.only_average is None:
            return problem
        mix = timeline.only_average[part.measured.start : part.measured.stop, part.true.start : part.true.stop]
        odd = misfits(problem.y, mix, part.own, problem.codec_noise)
        self._report.dropped([scene.start + part.measured.start + n for n in odd])
        return problem.degraded_by(without_mixing(problem.operator, part, odd)) if odd else problem


def _shifted(frames: range, by: int) -> range:
    return range(frames.start + by, frames.stop + by)
