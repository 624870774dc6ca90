"""One network at a time on the device."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.solve import pose, solve
from worker.solver.offload import OneAtATime
from worker.solver.prior import DiffusersPrior, load_prior
from worker.video import Beside

ELSEWHERE = torch.device("meta")  # a device that every torch has; what is there has a shape, and no values


@pytest.fixture
def prior() -> DiffusersPrior:
    return load_prior()


def lies(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*network.parameters(), *network.buffers())}


def test_what_is_needed_is_there_and_nothing_else(prior: DiffusersPrior) -> None:
    before = {name: tensor.clone() for name, tensor in prior.unet.state_dict().items()}
    strides = {name: tensor.stride() for name, tensor in prior.unet.state_dict().items()}
    networks = OneAtATime([prior.unet, prior.vae], ELSEWHERE)
    assert lies(prior.unet) == lies(prior.vae) == {"cpu"}
    prompt = replace(prior.empty, **{k: v.to(ELSEWHERE) for k, v in vars(prior.empty).items() if v is not None})
    away = replace(prior, offload=networks, device=ELSEWHERE, empty=prompt)

    z = away.encode(torch.rand(2, 3, 64, 64, device=ELSEWHERE))
    assert (lies(prior.vae), lies(prior.unet)) == ({"meta"}, {"cpu"})
    assert away.predict_noise(z, 201)[0].shape == z.shape
    assert (lies(prior.vae), lies(prior.unet)) == ({"cpu"}, {"meta"})
    assert away.decode(z, (64, 64)).shape == (2, 3, 64, 64)
    assert (lies(prior.vae), lies(prior.unet)) == ({"meta"}, {"cpu"})
    for name, tensor in prior.unet.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.stride() == strides[name]


class Counting(OneAtATime):
    """Keeps the order in which networks came."""

    def __init__(self, prior: DiffusersPrior) -> None:
        super().__init__([prior.unet, prior.vae], prior.device)
        self.came: list[str] = []

    def need(self, network: nn.Module) -> None:
        name = type(network).__name__
        if self.came[-1:] != [name]:
            self.came.append(name)
        super().need(network)


def test_the_same_bits_and_each_network_comes_once_a_step(prior: DiffusersPrior) -> None:
    torch.manual_seed(0)
    settings = SolverSettings(steps=10, tau=0.3)
    problem = pose(prior, torch.rand(6, 3, 64, 64), degradations_of(Task.deblur), Beside(), None, settings)
    here = solve(prior, problem, settings)
    counting = Counting(prior)
    assert torch.equal(solve(replace(prior, offload=counting), problem, settings), here)
    steps = len(problem.sampling.schedule.timesteps)
    assert len(counting.came) == 1 + 2 * steps, "in, then UNet and autoencoder once a step"
