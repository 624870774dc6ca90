"""What the loop does of a diffusion model a micro-batch at a time, and what it takes one to be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from worker.solver.batches import MicroBatches
from worker.solver.schedule import Schedule

Stage = Literal["invert", "denoise", "vae_decode", "data_step", "vae_encode"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Watch = Callable[[Stage, int], None]
Lowpass = Callable[[Tensor, float], Tensor]
Inversion = Callable[["Prior", Tensor, Schedule, Watch], Tensor]


class Prior(Protocol):
    """A latent image diffusion model, as far as the loop needs it."""

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents -> (B, 3, H, W) in about [-1, 1], size = (H, W)."""

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """eps_theta(z, t), guided and unguided; the same tensor twice where there is no prompt."""


class Frames(Protocol):
    """A clip of latents or of anything else, (T, ...), of which not all need be in memory; a tensor is one."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """These of its frames."""

    def __setitem__(self, part: slice, frames: Tensor, /) -> None:
        """Have these be its frames."""


Room = Callable[[int, Tensor], Frames]


def in_memory(frames: int, like: Tensor) -> Tensor:
    """Room for so many frames of the kind of `like`, (1, ...)."""
    return like.new_empty(frames, *like.shape[1:])


def nobody(stage: Stage, frames: int) -> None:
    """Watches nothing."""


@dataclass(frozen=True)
class Stages:
    """What is done a micro-batch at a time, each piece watched once it is done."""

    prior: Prior
    schedule: Schedule
    watch: Watch
    batches: MicroBatches

    def denoise(self, z: Frames, eps: Frames, frames: int, t: int) -> None:
        """Make of latents Tweedie's estimate of the clean ones, where they are; the noise they had goes into eps."""

        def work(part: slice) -> None:
            noisy = z[part]
            guided, eps[part] = self.prior.predict_noise(noisy, t)
            z[part] = (noisy - self.schedule.noise(t) * guided) / self.schedule.signal(t)
            self.watch("denoise", len(guided))

        self.batches.over(frames, work)

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

    def invert(self, z: Frames, frames: int, inversion: Inversion) -> None:
        """Take latents to the first timestep, where they are."""

        def work(part: slice) -> None:
            z[part] = inversion(self.prior, z[part], self.schedule, self.watch)

        self.batches.over(frames, work)
