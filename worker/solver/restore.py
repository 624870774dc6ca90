"""The loop of VISION-XL (Kwon and Ye, ICCV 2025, arXiv 2412.00156): start reading here.

A clip x (T, 3, H, W) was degraded to y = A x + noise. The prior is an image diffusion model; what makes a video of its
frames is that all of them start from their own inverted latents (pseudo-batch inversion), share every sample of fresh
noise (pseudo-batch consistent sampling), and are fitted to the measurement together (data step).
docs/algorithm.md maps each equation to its line, and lists where this departs from the published code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from worker.solver.batches import MicroBatches
from worker.solver.keeper import FORGETFUL, Keeper, Reached
from worker.solver.lowpass import gaussian_lowpass
from worker.solver.schedule import Schedule
from worker.solver.segments import crossfade
from worker.solver.stages import Frames, Inversion, Lowpass, Prior, Room, Stages, Watch, in_memory, nobody

MICRO_BATCH = 4
DataStep = Callable[[Tensor, int], Tensor]
Fresh = Callable[[Tensor, int, torch.Generator], Tensor]


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


def shared_noise(like: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """One sample of standard normal noise for all frames, (T, C, h, w), of which one is in memory.

    like: latents of one, (1, C, h, w), typed and placed as the noise is to be; it is drawn on the CPU.
    """
    return _drawn(like, generator).expand(frames, *like.shape[1:])


def own_noise(like: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """A sample for each frame: what the paper compares with."""
    return _drawn(like.expand(frames, *like.shape[1:]), generator)


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
    room: Room = in_memory,
    keeper: Keeper = FORGETFUL,
) -> Iterator[Tensor]:
    """Solve y = A x + noise for a clip x; pixels of only one section are in memory.

    generator: on the CPU, so that a seed means the same on every device. watch(stage, frames): called after each piece
    of work; what it raises ends the run. batches: how many frames go through the prior at a time; MICRO_BATCH, where it
    is not given. room: where latents and noise of all frames are. keeper: knows where to go on, is told of each step.

    Yields each section, (T, 3, H, W), not clamped; frames that the one before has, too, go over from that to this one.
    """
    schedule = sampling.schedule
    stages = Stages(prior, schedule, watch, batches or MicroBatches(MICRO_BATCH))
    count = sections[-1].frames.stop - sections[0].frames.start
    done_before = 0
    if reached := keeper.reached():
        done_before = reached.steps
        z, like, frame = resumed_latents(reached, sections, generator, room)
    else:
        z, like, frame = initial_latents(stages, sections, sampling, generator, room)
        keeper.keep(0, z, count, generator.get_state())
    eps = room(count, like)

    for index, t in enumerate(schedule.timesteps[done_before:], done_before):
        # Denoise every frame on its own; from here on z is what they would be without noise.
        stages.denoise(z, eps, count, t)

        # Fresh noise is shared by all frames, which keeps them consistent.
        if t_next := schedule.next(index):
            fresh = sampling.fresh(like, count, generator)

        decoded, fitted = frame[:0], frame[:0]  # of frames that the section before has, too
        for section, new, done in in_turn(sections):
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
                noise = sampling.eta * fresh[done] + (1 - sampling.eta**2) ** 0.5 * eps[done]
                z[done] = stages.renoised(x[:own], noise, t_next)
            else:
                yield x
        if t_next:
            keeper.keep(index + 1, z, count, generator.get_state())


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


def resumed_latents(
    reached: Reached, sections: Sequence[Section], generator: torch.Generator, room: Room
) -> tuple[Frames, Tensor, Tensor]:
    """The same as `initial_latents`, as they were after some step; the generator goes on from there, too."""
    frame = sections[0].lifted()[:1].clone()
    latents = reached.z.to(frame.device)
    z = room(len(latents), latents[:1])
    z[:] = latents
    generator.set_state(reached.generator)
    return z, latents[:1].clone(), frame


def initial_latents(
    stages: Stages, sections: Sequence[Section], sampling: Sampling, generator: torch.Generator, room: Room
) -> tuple[Frames, Tensor, Tensor]:
    """Latents of all frames, (T, C, h, w), at the first timestep; those of one, (1, C, h, w); a frame, (1, 3, H, W)."""
    count = sections[-1].frames.stop - sections[0].frames.start
    once = sampling.init == "first_frame"  # of each section
    found: list[tuple[slice, Tensor]] = []
    z: Frames | None = None
    for section, new, done in in_turn(sections):  # what two sections share is halved between them
        start, stop = ((one + other) // 2 for one, other in ((new.start, done.start), (new.stop, done.stop)))
        before = start - done.start
        lifted = section.lifted()[before : before + stop - start]
        latents = stages.encoded(lifted[:1] if once else lifted)
        z = z if z is not None else room(count, latents[:1])
        if once:
            found.append((slice(start, stop), latents))
        else:
            z[start:stop] = latents
    assert z is not None  # there is a section
    first, like = sampling.schedule.timesteps[0], latents[:1].clone()
    if once:
        firsts = torch.cat([latents for _, latents in found])
        stages.invert(firsts, len(firsts), sampling.inversion)
        for n, (where, _) in enumerate(found):
            z[where] = firsts[n : n + 1].expand(where.stop - where.start, *like.shape[1:])
    elif sampling.init == "random":
        fresh = sampling.fresh(like, count, generator)
        for _, new, _ in in_turn(sections):
            z[new] = sampling.schedule.signal(first) * z[new] + sampling.schedule.noise(first) * fresh[new]
    else:
        stages.invert(z, count, sampling.inversion)
    return z, like, lifted[:1].clone()
