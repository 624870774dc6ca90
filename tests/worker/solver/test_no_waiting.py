"""The loop never waits for the device: nothing is fetched from it, and nothing copied to it but each step's noise.

The device is `meta`, which every torch has: what is there has a shape and no values, so that asking for one raises.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.solve import pose
from worker.solver.batches import MicroBatches
from worker.solver.data_step import Proximal
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.restore import Section, restored
from worker.solver.stages import Prior
from worker.solver.temporal import TemporalAverage
from worker.solver.tiles import Tiled, Tiling
from worker.video import Beside

DEVICE = torch.device("meta")
SECTIONS = [range(0, 8), range(5, 13)]


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the shapes of what goes from the host to the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in args if isinstance(one, Tensor)]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.device == DEVICE:
            self.shapes += [tuple(one.shape) for one in given if one.device.type == "cpu" and one.dim()]
        return made


@pytest.fixture
def prior() -> DiffusersPrior:
    prior = load_prior()
    prompt = replace(prior.empty, **{k: v.to(DEVICE) for k, v in vars(prior.empty).items() if v is not None})
    return replace(prior, unet=prior.unet.to(DEVICE), vae=prior.vae.to(DEVICE), empty=prompt, device=DEVICE)


def elsewhere(value: Any) -> Any:
    """The same with its tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    if isinstance(value, list | tuple):
        return type(value)(map(elsewhere, value))
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{name: elsewhere(getattr(value, name)) for name in value.__dataclass_fields__})
    return value


@pytest.mark.parametrize(
    ("task", "tiled"),
    [
        (Task.deblur, False),
        (Task.deblur_plus, True),
        (Task.super_resolution_x4_plus, False),
        (Task.inpaint_plus, False),
    ],
)
def test_the_host_runs_ahead(prior: DiffusersPrior, task: Task, tiled: bool) -> None:
    here, stated = load_prior(), degradations_of(task)
    factor = 4 if task is Task.super_resolution_x4_plus else 1
    random = torch.Generator().manual_seed(0)
    measured = torch.rand(8, 3, 160 // factor, 256 // factor, generator=random)
    mask = (torch.rand(1, 1, *measured.shape[-2:], generator=random) > 0.5).float()
    problem = pose(here, measured, stated, Beside(mask, None), None, SolverSettings(steps=10))
    assert problem.gram is not None and problem.noise is not None
    trust = replace(problem.trust, known=True)
    y, lifted, gram = elsewhere(problem.y), elsewhere(problem.lifted), elsewhere(problem.gram)
    operator = elsewhere(problem.operator)
    schedule = problem.sampling.schedule
    steps = [Proximal(operator, gram, y, schedule, trust) for _ in SECTIONS]
    sections = [Section(frames, lambda: lifted, step) for frames, step in zip(SECTIONS, steps, strict=True)]
    height, width = lifted.shape[-2:]
    tiling = Tiling.within(128 * 192 if tiled else height * width, height, width, prior.multiple)
    assert (len(tiling) > 1) == tiled
    shown: Prior = Tiled(prior, tiling) if tiled else prior
    assert any(isinstance(one, TemporalAverage) for one in operator.operators) == task.value.endswith("plus")

    with Copies() as copies:
        made = list(restored(shown, sections, problem.sampling, torch.Generator(), batches=MicroBatches(4)))
    assert [tuple(x.shape) for x in made] == [(8, *lifted.shape[1:])] * 2
    latents = shown.encode(lifted[:1]).shape
    noise = [shape for shape in copies.shapes if shape == latents]
    assert len(noise) == len(schedule.timesteps) - 1

    with Copies() as again:  # by now all constants are there
        list(restored(shown, sections, problem.sampling, torch.Generator(), batches=MicroBatches(4)))
    assert again.shapes == noise
