"""From what a client states to what the solver takes: noise, and the settings each task does best with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from app.degradations import Degradation
from app.restoration import SolverSettings, Tier
from worker.solver.batches import MicroBatches
from worker.solver.closed_form import Gram, closed_form
from worker.solver.data_step import Proximal, Trust, further_off
from worker.solver.halved import Halved, half
from worker.solver.keeper import FORGETFUL, Keeper
from worker.solver.memory import likely_memories
from worker.solver.noise import COMPRESSION, ROUNDING, Noise, find_noise
from worker.solver.operators import Chain, Mask
from worker.solver.prior import DiffusersPrior
from worker.solver.published import published_data_step, published_operators, published_sampling
from worker.solver.restore import DataStep, Sampling, Section, restored, straight_inversion
from worker.solver.schedule import Schedule
from worker.solver.segments import beginning
from worker.solver.stages import Prior, Room, Watch, in_memory, nobody
from worker.solver.tiles import Tiled, Tiling
from worker.stated import operator_of
from worker.tiers import at_tier
from worker.tuning import PAPER, Tuning, tuning_of
from worker.video import Beside

PUBLISHED_ITERATIONS = 10
TILE_PIXELS = 1024 * 1024  # about what SDXL was trained on


@dataclass(frozen=True)
class Problem:
    """A part of a clip ready to be solved; pixels in [-1, 1].

    gram: how A A^T is inverted, where there is a closed form. measured: gives it as it was given, (T', 3, H', W') in
    [0, 1], of that shape.
    unexplained: RMS of y - A lift(y) for each measured frame, in pixels of [0, 1]: what the first guess leaves.
    tiling: how the prior goes over its frames. halved: whether it is shown frames half as large, which `tiling` is of
    then. published: whether all is done as the published solver does it.
    """

    operator: Chain
    gram: Gram | None
    measured: Callable[[], Tensor]
    shape: torch.Size
    unexplained: list[float]
    device: torch.device
    noise: Noise
    sampling: Sampling
    tuning: Tuning
    tiling: Tiling
    halved: bool = False
    published: bool = False

    @property
    def y(self) -> Tensor:
        """The measurement, (T', 3, H', W')."""
        y = self.measured().to(self.device, torch.float32, non_blocking=True, copy=True).mul_(2).sub_(1)
        known = mask_of_last(self.operator)
        return y if known is None else y.mul_(known)  # whatever the file holds where pixels are lost is no measurement

    @property
    def lifted(self) -> Tensor:
        """The measurement on the grid of the clip, (T, 3, H, W), from which the solver starts."""
        return self.operator.lift(self.y)

    def data_step(self, hold: bool = True) -> DataStep:
        """Fits an estimate to the measurement. hold: keep the measurement ready between two steps."""
        if self.published:
            return published_data_step(self.operator, self.y, PUBLISHED_ITERATIONS)
        y = self.y if hold else lambda: self.y
        return Proximal(self.operator, self.gram, y, self.sampling.schedule, self.trust)

    @property
    def trust(self) -> Trust:
        """How far the data step trusts the measurement."""
        tuning = self.tuning
        return Trust(2 * self.noise.sigma, tuning.floor, tuning.slope, tuning.chroma, self.noise.measured)

    @property
    def codec_noise(self) -> float:
        """Standard deviation of y's noise where it is coarse: it is told by its fine part, which may be less."""
        return 2 * max(self.noise.sigma, COMPRESSION)

    def settings(self, data_step: DataStep) -> dict[str, Any]:
        """What the solver ran with, defaults filled in. data_step: the one it used."""
        sampling = self.sampling
        chosen: dict[str, Any] = {name: getattr(sampling, name) for name in ("eta", "lowpass", "init", "final")}
        chosen |= {"tau": self.tuning.tau, "timesteps": sampling.schedule.timesteps, "inversions": sampling.inversions}
        chosen |= {"tiles": self.tiling.settings()}
        if not isinstance(data_step, Proximal):
            return chosen | {"cg_iterations": PUBLISHED_ITERATIONS}
        trust = {name: getattr(self.tuning, name) for name in ("floor", "slope", "chroma")}
        memories = [octave.memory for octave in self.gram.octaves] if self.gram is not None else []
        chosen |= trust | {"memories": memories, "rho": data_step.rho}
        return chosen if self.gram is not None else chosen | {"iterations": data_step.iterations}

    def degraded_by(self, operator: Chain) -> "Problem":
        """The same measurement by other operators, that give frames of the same size and number."""
        y = self.y
        off = y - operator.A(operator.lift(y))
        gram = _remembering(closed_form(operator, y, self.gram), operator, off, self.noise)
        return replace(self, operator=operator, gram=gram, unexplained=_rms(off))

    def residuals(self, x: Tensor, frames: int | None = None) -> list[float]:
        """RMS of y - A x for each measured frame, or the first so many of them, in pixels of [0, 1]."""
        y, operator = self.y[:frames], self.operator
        if len(y) < self.shape[0]:
            operator, taken = beginning(operator, len(y))
            x = x[:taken]
        return _rms(y.sub_(operator.A(x)))

    def residual(self, x: Tensor) -> float:
        """RMS of y - A x, in pixels of [0, 1]."""
        return sqrt(sum(one**2 for one in self.residuals(x)) / self.shape[0])


def _rms(off: Tensor) -> list[float]:
    """That of each frame of (T, 3, H, W) in [-1, 1], in pixels of [0, 1]."""
    found: list[float] = (torch.linalg.vector_norm(off, dim=(1, 2, 3)) / sqrt(off[0].numel()) / 2).tolist()
    return found


def _remembering(gram: Gram | None, operator: Chain, off: Tensor, noise: Noise) -> Gram | None:
    """The gram for errors that last as long as those of the first guess do, where frames were mixed.

    off: y - A lift(y).
    """
    if gram is None or gram.mix is None:
        return gram
    memories = likely_memories(gram, operator, off, 2 * noise.sigma)
    return gram.remembering(memories, noise.memory, noise.rise)


@dataclass(frozen=True)
class Setup:
    """How all parts of a clip are to be solved.

    operator: what happened to the whole clip, as the solver models it. tile_pixels: frames with more go through the
    prior in tiles, whose sides are multiples of `multiple`. halved: the prior is shown frames half as large.
    """

    operator: Chain
    sampling: Sampling
    tuning: Tuning
    published: bool
    device: torch.device
    tile_pixels: int
    multiple: int
    halved: bool

    def pose(
        self, measured: Tensor, noise: Noise | None, operator: Chain | None = None, like: Problem | None = None
    ) -> Problem:
        """What is to be solved for a clip, or with its own `operator` for a part of one.

        measured: (T', 3, H', W') in [0, 1]. noise: None estimates it. like: a part to each frame of which the same
        happened; what is known of that need not be found out again.
        Raises ValueError where the mask does not fit the clip.
        """
        operator = operator or self.operator
        y = 2 * measured.to(self.device, torch.float32) - 1
        known = mask_of_last(operator)
        if known is not None and (known.shape[0] not in (1, len(y)) or known.shape[-2:] != y.shape[-2:]):
            raise ValueError(f"the mask is {tuple(known.shape)}, which does not fit a clip of {tuple(y.shape)}")
        gram = None if self.published else closed_form(operator, y, like.gram if like else None)
        noise = noise or find_noise(measured.to(y), known, gram)
        if known is not None:
            y = y * known
        lifted = operator.lift(y)
        off = y - operator.A(lifted)
        gram = _remembering(gram, operator, off, noise)
        tuning = self.tuning
        if gram is not None and gram.mixes_spectra and not noise.measured:
            times = further_off(gram, off, 2 * noise.sigma)
            tuning = replace(tuning, floor=times * tuning.floor, slope=times * tuning.slope)
        height, width = lifted.shape[-2:]
        if self.halved:
            height, width = half(height, width)
        tiling = Tiling.within(self.tile_pixels, height, width, self.multiple)
        if self.device.type == "cuda":
            measured = measured.pin_memory()  # from where a copy keeps nobody waiting
        how = noise, self.sampling, tuning, tiling, self.halved, self.published
        return Problem(operator, gram, lambda: measured, measured.shape, _rms(off), self.device, *how)


def setup(
    prior: DiffusersPrior,
    degradations: list[Degradation],
    beside: Beside,
    settings: SolverSettings,
    tile_pixels: int,
    tier: Tier = "exact",
) -> Setup:
    """What a client stated, with all that it left open filled in."""
    operator = operator_of(degradations, beside, prior.device)
    published = settings.preset == "published"
    tuned = replace(PAPER, lowpass=2**0.5) if published else tuning_of(degradations, prior.bundled)
    tuned = replace(tuned, **{n: v for n in ("tau", "eta", "lowpass") if (v := getattr(settings, n)) is not None})
    sampling = Sampling(Schedule.leading(prior.abar, settings.steps, tuned.tau), tuned.eta, tuned.lowpass)
    if tuned.straight:
        sampling = replace(sampling, inversion=straight_inversion)
    sampling = at_tier(sampling, tier)
    if published:
        operator, sampling = published_operators(operator.operators), published_sampling(sampling)
    sampling = replace(sampling, **{n: v for n in ("init", "final") if (v := getattr(settings, n)) is not None})
    return Setup(operator, sampling, tuned, published, prior.device, tile_pixels, prior.multiple, tier == "draft")


def pose(
    prior: DiffusersPrior,
    measured: Tensor,
    degradations: list[Degradation],
    beside: Beside,
    noise_sigma: float | None,
    settings: SolverSettings,
    tile_pixels: int = TILE_PIXELS,
    tier: Tier = "exact",
) -> Problem:
    """A clip that is solved as one; arguments as those of `setup` and of `Setup.pose`."""
    noise = None if noise_sigma is None else stated_noise(noise_sigma)
    return setup(prior, degradations, beside, settings, tile_pixels, tier).pose(measured, noise)


def stated_noise(sigma: float) -> Noise:
    """What a client says of the noise; less than what 8 bits round away is more than a file can hold."""
    return Noise(max(sigma, ROUNDING))


def mask_of_last(operator: Chain) -> Tensor | None:
    """Which measured pixels are known, where the last thing that happened was a mask."""
    last = operator.operators[-1]
    return last.known if isinstance(last, Mask) else None


def solve(
    prior: DiffusersPrior,
    problem: Problem,
    settings: SolverSettings,
    watch: Watch = nobody,
    data_step: DataStep | None = None,
    batches: MicroBatches | None = None,
) -> Tensor:
    """The restored clip, (T, 3, H, W) in [-1, 1]. data_step: the problem's own if none is given."""
    lifted = problem.lifted
    whole = Section(range(len(lifted)), lambda: lifted, data_step or problem.data_step())
    return next(solve_sections(prior, problem, [whole], settings, watch, batches))


def solve_sections(
    prior: DiffusersPrior,
    problem: Problem,
    sections: Sequence[Section],
    settings: SolverSettings,
    watch: Watch = nobody,
    batches: MicroBatches | None = None,
    room: Room = in_memory,
    keeper: Keeper = FORGETFUL,
) -> Iterator[Tensor]:
    """Each section of a clip restored, (T, 3, H, W) in [-1, 1]. problem: that of any, which says how to sample."""
    generator = torch.Generator().manual_seed(settings.seed)
    prior = prior.prompted(settings.prompt, settings.guidance)
    if problem.published:
        prior = prior.as_published()
    shown: Prior = Tiled(prior, problem.tiling) if len(problem.tiling) > 1 else prior
    if problem.halved:
        shown = Halved(shown)
    for x in restored(shown, sections, problem.sampling, generator, watch, batches, room, keeper):
        yield x.clamp(-1, 1)
