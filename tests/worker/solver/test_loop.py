"""The loop against a second, independent writing of it, with a prior that is anything but an oracle."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from worker.solver.batches import MicroBatches
from worker.solver.lowpass import gaussian_lowpass
from worker.solver.restore import Sampling, restore
from worker.solver.schedule import Schedule, scaled_linear

FRAMES, SIZE = 3, 16


@dataclass
class Wavy:
    """Smooth and nonlinear: latents are 2 x 2 means, tripled; the noise depends on all of z and on t."""

    asked: list[int] = field(default_factory=list)

    def encode(self, x: Tensor) -> Tensor:
        return 3 * torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.tanh(torch.nn.functional.interpolate(z / 3, size=size, mode="bilinear"))

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        self.asked.append(t)
        unguided = torch.sin(z + t / 500) + 0.1 * z.roll(1, -1)
        return unguided + 0.05 * torch.cos(z), unguided


def pull(x: Tensor, t: int) -> Tensor:
    """Stands for the data step: mixes frames, and depends on t."""
    return 0.7 * x + 0.3 * x.mean(0, keepdim=True) + t / 5000


def again(lifted: Tensor, schedule: Schedule, eta: float, lam: float, init: str, seed: int) -> Tensor:
    """Frame by frame, in scalars where the solver has methods."""
    prior, generator = Wavy(), torch.Generator().manual_seed(seed)
    a = [float(schedule.abar[t]) for t in schedule.timesteps]
    noisy = []
    for n in range(len(lifted)):
        z = prior.encode(lifted[[0 if init == "first_frame" else n]])
        for i in range(len(a) - 1, 0, -1):
            eps = prior.predict_noise(z, schedule.timesteps[i])[1]
            z = math.sqrt(a[i - 1] / a[i]) * (z - math.sqrt(1 - a[i]) * eps) + math.sqrt(1 - a[i - 1]) * eps
        noisy.append(z)
    for i, t in enumerate(schedule.timesteps):
        predicted = [prior.predict_noise(z, t) for z in noisy]
        clean = [(z - math.sqrt(1 - a[i]) * g) / math.sqrt(a[i]) for z, (g, _) in zip(noisy, predicted, strict=True)]
        x = pull(torch.cat([prior.decode(z, (SIZE, SIZE)) for z in clean]), t)
        x = gaussian_lowpass(x, lam * math.sqrt(1 - a[i]))
        if i + 1 == len(a):
            return x
        fresh = torch.randn(noisy[0].shape, generator=generator).double()
        noisy = [
            math.sqrt(a[i + 1]) * prior.encode(x[[n]])
            + math.sqrt(1 - a[i + 1]) * (eta * fresh + math.sqrt(1 - eta**2) * predicted[n][1])
            for n in range(len(noisy))
        ]
    raise AssertionError


@pytest.mark.parametrize("init", ["every_frame", "first_frame"])
@pytest.mark.parametrize(("eta", "lam", "micro_batch"), [(0.2, 1.41, 2), (1.0, 0.0, 1), (0.0, 3.0, 4)])
def test_the_loop_is_the_one_of_the_paper(init: str, eta: float, lam: float, micro_batch: int) -> None:
    schedule = Schedule.leading(scaled_linear(), 25, 0.30)
    lifted = torch.rand(FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    how = Sampling(schedule, eta, lam, "first_frame" if init == "first_frame" else "every_frame", "data")
    prior = Wavy()
    x = restore(prior, lifted, pull, how, torch.Generator().manual_seed(7), batches=MicroBatches(micro_batch))
    torch.testing.assert_close(x, again(lifted, schedule, eta, lam, init, 7), rtol=1e-9, atol=1e-9)
    batches = math.ceil(FRAMES / micro_batch)
    inverted = 1 if init == "first_frame" else batches
    assert len(prior.asked) == 7 * inverted + 8 * batches  # seven steps up, eight down


def test_fresh_noise_is_the_same_for_every_frame() -> None:
    """Equal frames stay equal, bit for bit, however much noise comes in."""
    schedule = Schedule.leading(scaled_linear(), 25, 0.30)
    lifted = torch.rand(1, 3, SIZE, SIZE).double().expand(FRAMES, -1, -1, -1)
    x = restore(Wavy(), lifted, pull, Sampling(schedule, eta=1.0), torch.Generator().manual_seed(7))
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])


def test_the_result_of_the_prior_is_taken_before_its_data_step() -> None:
    schedule = Schedule.leading(scaled_linear(), 25, 0.02)
    assert schedule.timesteps == (1,)
    lifted = torch.rand(1, 3, SIZE, SIZE).double()
    how = Sampling(schedule, init="every_frame", final="prior")
    prior = Wavy()
    x = restore(prior, lifted, pull, how, torch.Generator())
    z = prior.encode(lifted)
    z0 = (z - schedule.noise(1) * prior.predict_noise(z, 1)[0]) / schedule.signal(1)
    torch.testing.assert_close(x, prior.decode(z0, (SIZE, SIZE)))


def test_a_schedule_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no timestep"):
        Schedule.leading(scaled_linear(), 25, 0.0005)


@pytest.mark.parametrize("steps", [7, 25, 30, 64, 501, 999])
def test_as_many_steps_as_asked_for(steps: int) -> None:
    assert len(Schedule.leading(scaled_linear(), steps, 1.0).timesteps) == steps
