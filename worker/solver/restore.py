"""The loop of VISION-XL (Kwon and Ye, ICCV 2025, arXiv 2412.00156): start reading here.

A clip x (T, 3, H, W) was degraded to y = A x + noise. The prior is an image diffusion model; what makes a video of its
frames is that all of them start from their own inverted latents (pseudo-batch inversion), share every sample of fresh
noise (pseudo-batch consistent sampling), and are fitted to the measurement together (data step).
docs/algorithm.md maps each equation to its line, and lists where this departs from the published code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from worker.solver.batches import MicroBatches
from worker.solver.lowpass import gaussian_lowpass
from worker.solver.schedule import Schedule
from worker.solver.segments import crossfade, gathered

MICRO_BATCH = 4
Stage = Literal["invert", "denoise", "vae_decode", "data_step", "vae_encode"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Watch = Callable[[Stage, int], None]
DataStep = Callable[[Tensor, int], Tensor]
Inversion = Callable[["Prior", Tensor, Schedule, Watch], Tensor]
Lowpass = Callable[[Tensor, float], Tensor]
Fresh = Callable[[Tensor, torch.Generator], Tensor]


class Prior(Protocol):
    """A latent image diffusion model, as far as the loop needs it."""

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents -> (B, 3, H, W) in about [-1, 1], size = (H, W)."""

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """eps_theta(z, t), guided and unguided; the same tensor twice where there is no prompt."""


def nobody(stage: Stage, frames: int) -> None:
    """Watches nothing."""


def ddim_inversion(prior: Prior, z: Tensor, schedule: Schedule, watch: Watch = nobody) -> Tensor:
    """DDIM inversion (Song et al. 2021, eq. 14 run backwards) from the last timestep up to the first.

    z: (B, C, h, w), clean latents, taken to be at the last timestep already: there they differ by 3% of noise.
    """
    for t, t_up in pairwise(reversed(schedule.timesteps)):
        _, eps = prior.predict_noise(z, t)
        z0 = (z - schedule.noise(t) * eps) / schedule.signal(t)
        z = schedule.signal(t_up) * z0 + schedule.noise(t_up) * eps
        watch("invert", len(z))
    return z


def straight_inversion(prior: Prior, z: Tensor, schedule: Schedule, watch: Watch = nobody) -> Tensor:
    """DDIM inversion in a single step, from the last timestep to the first."""
    ends = Schedule(schedule.abar, (schedule.timesteps[0], schedule.timesteps[-1]))
    return z if len(schedule.timesteps) == 1 else ddim_inversion(prior, z, ends, watch)


def shared_noise(z: Tensor, generator: torch.Generator) -> Tensor:
    """One sample of standard normal noise for all frames, (1, C, h, w); drawn on the CPU, typed and placed like z."""
    return _drawn(z[:1], generator)


def own_noise(z: Tensor, generator: torch.Generator) -> Tensor:
    """A sample for each frame, (T, C, h, w): what the paper compares with."""
    return _drawn(z, generator)


def _drawn(z: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(z.shape, generator=generator, pin_memory=z.is_cuda).to(z, non_blocking=True)


@dataclass(frozen=True)
class Sampling:
    """How to sample; the paper's symbols where it has them.

    eta: share of fresh noise when renoising. lowpass: lambda, the low-pass is lowpass * sqrt(1 - abar_t) pixels wide.
    init: what the first latents are made of. final: whether the result is fitted to the measurement once more (`data`)
    or taken as decoded (`prior`).
    inversion, smooth, fresh: how latents are inverted, frames low-passed, and noise drawn for a clip of latents.
    """

    schedule: Schedule
    eta: float = 0.2
    lowpass: float = 1.41
    init: Literal["every_frame", "first_frame", "random"] = "every_frame"
    final: Literal["data", "prior"] = "data"
    inversion: Inversion = ddim_inversion
    smooth: Lowpass = gaussian_lowpass
    fresh: Fresh = shared_noise

    @property
    def inversions(self) -> int:
        """How many steps latents take to the first timestep."""
        steps = len(self.schedule.timesteps) - 1
        if self.init == "random":
            return 0
        return min(1, steps) if self.inversion is straight_inversion else steps


class Section(NamedTuple):
    """Frames of a clip that are fitted to their measurement together; the next section may begin with some of them.

    frames: their numbers. lifted: gives (T, 3, H, W) in [-1, 1], the measurement on the grid of the clip.
    data_step(x0, t): fits all of them, as estimated at timestep t, to the measurement.
    """

    frames: range
    lifted: Callable[[], Tensor]
    data_step: DataStep


def restore(
    prior: Prior,
    lifted: Tensor,
    data_step: DataStep,
    sampling: Sampling,
    generator: torch.Generator,
    watch: Watch = nobody,
    batches: MicroBatches | None = None,
) -> Tensor:
    """Solve y = A x + noise for a clip x, (T, 3, H, W), that is one section; arguments and result as of `restored`."""
    whole = Section(range(len(lifted)), lambda: lifted, data_step)
    return next(restored(prior, [whole], sampling, generator, watch, batches))


@torch.inference_mode()
def restored(
    prior: Prior,
    sections: Sequence[Section],
    sampling: Sampling,
    generator: torch.Generator,
    watch: Watch = nobody,
    batches: MicroBatches | None = None,
) -> Iterator[Tensor]:
    """Solve y = A x + noise for a clip x; pixels and noise of only one section are in memory, latents of all frames.

    generator: on the CPU, so that a seed means the same on every device. watch(stage, frames): called after each piece
    of work; what it raises ends the run. batches: how many frames go through the prior at a time; MICRO_BATCH, where it
    is not given.

    Yields each section, (T, 3, H, W), not clamped; frames that the one before has, too, go over from that to this one.
    """
    schedule = sampling.schedule
    stages = Stages(prior, schedule, watch, batches or MicroBatches(MICRO_BATCH))
    z, frame = initial_latents(stages, sections, sampling, generator)

    for index, t in enumerate(schedule.timesteps):
        # Fresh noise is shared by all frames, which keeps them consistent.
        if t_next := schedule.next(index):
            fresh = sampling.fresh(z, generator).expand_as(z)

        eps, decoded, fitted = z[:0], frame[:0], frame[:0]  # of frames that the section before has, too
        for section, new, done in in_turn(sections):
            # Denoise every frame on its own; from here on z is what they would be without noise.
            noise = stages.denoise(z[new], t)
            if t_next:
                noise = noise.mul_((1 - sampling.eta**2) ** 0.5).add_(sampling.eta * fresh[new])
                eps = torch.cat([eps, noise])

            x = frame.new_empty(len(section.frames), *frame.shape[1:])
            x[: len(decoded)] = decoded
            stages.decode(z[new], x[len(decoded) :])
            own = done.stop - done.start
            decoded = x[own:].clone()

            # Fit all frames together to the measurement, then smooth what it cannot tell.
            if t_next or sampling.final == "data":
                x = section.data_step(x, t)
                stages.smooth(x, sampling.smooth, sampling.lowpass * schedule.noise(t))
                watch("data_step", new.stop - new.start)
            x[: len(fitted)] = crossfade(fitted, x[: len(fitted)])
            fitted = x[own:].clone()

            # Renoise.
            if t_next:
                z[done] = stages.renoised(x[:own], eps[:own], t_next)
                eps = eps[own:].clone()
            else:
                yield x


def in_turn(sections: Sequence[Section]) -> Iterator[tuple[Section, slice, slice]]:
    """Each section, its frames that no earlier one has, and those that no later one has."""
    first = stop = sections[0].frames.start
    starts = [section.frames.start for section in sections[1:]] + [sections[-1].frames.stop]
    for section, end in zip(sections, starts, strict=True):
        yield (
            section,
            slice(stop - first, section.frames.stop - first),
            slice(section.frames.start - first, end - first),
        )
        stop = section.frames.stop


@dataclass(frozen=True)
class Stages:
    """What is done a micro-batch at a time, each piece watched once it is done."""

    prior: Prior
    schedule: Schedule
    watch: Watch
    batches: MicroBatches

    def denoise(self, z: Tensor, t: int) -> Tensor:
        """Make of latents Tweedie's estimate of the clean ones, where they are; -> the noise they had, (T, C, h, w)."""
        eps = torch.empty_like(z)

        def work(part: slice) -> None:
            guided, eps[part] = self.prior.predict_noise(z[part], t)
            z[part] = (z[part] - self.schedule.noise(t) * guided) / self.schedule.signal(t)
            self.watch("denoise", len(guided))

        self.batches.over(len(z), work)
        return eps

    def decode(self, z0: Tensor, x: Tensor) -> None:
        """Write what latents show into the clip x."""

        def work(part: slice) -> None:
            x[part] = self.prior.decode(z0[part], (x.shape[-2], x.shape[-1]))
            self.watch("vae_decode", part.stop - part.start)

        self.batches.over(len(x), work)

    def smooth(self, x: Tensor, lowpass: Lowpass, width: float) -> None:
        """Low-pass the clip x where it is."""

        def work(part: slice) -> None:
            x[part] = lowpass(x[part], width)

        self.batches.over(len(x), work)

    def renoised(self, x: Tensor, mixed: Tensor, t: int) -> Tensor:
        """Latents of the clip x with noise `mixed` at timestep t, (T, C, h, w)."""
        z = torch.empty_like(mixed)

        def work(part: slice) -> None:
            z[part] = self.schedule.signal(t) * self.prior.encode(x[part]) + self.schedule.noise(t) * mixed[part]
            self.watch("vae_encode", part.stop - part.start)

        self.batches.over(len(x), work)
        return z

    def encoded(self, x: Tensor) -> Tensor:
        """Latents of the frames x, (T, C, h, w)."""
        found: list[Tensor] = []

        def work(part: slice) -> None:
            found.append(self.prior.encode(x[part]))
            self.watch("invert", 0)  # no step of it yet, but a sign of life

        self.batches.over(len(x), work)
        return torch.cat(found)

    def invert(self, z: Tensor, inversion: Inversion) -> None:
        """Take latents to the first timestep, where they are."""

        def work(part: slice) -> None:
            z[part] = inversion(self.prior, z[part], self.schedule, self.watch)

        self.batches.over(len(z), work)


def initial_latents(
    stages: Stages, sections: Sequence[Section], sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents of all frames, (T, C, h, w), at the first timestep; and a frame, (1, 3, H, W)."""
    found: list[Tensor] = []
    frames: list[int] = []
    for section, new, done in in_turn(sections):  # what two sections share is halved between them
        start, stop = ((one + other) // 2 for one, other in ((new.start, done.start), (new.stop, done.stop)))
        before = start - done.start
        lifted = section.lifted()[before : before + stop - start]
        found.append(stages.encoded(lifted[:1] if sampling.init == "first_frame" else lifted))
        frames.append(stop - start)
    z, first = gathered(found), sampling.schedule.timesteps[0]
    if sampling.init == "random":
        fresh = sampling.fresh(z, generator)
        z = sampling.schedule.signal(first) * z + sampling.schedule.noise(first) * fresh
    else:
        stages.invert(z, sampling.inversion)
    if sampling.init == "first_frame":
        z = z.repeat_interleave(torch.tensor(frames, device=z.device), 0)
    return z, lifted[:1].clone()
