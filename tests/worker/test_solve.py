"""From what a client states to what the solver takes, on the bundled checkpoint's own settings."""

import math

import pytest
import torch
from consistency import NOISES, row
from torch import Tensor

from app.degradations import Degradation, Task, degradations_of
from app.restoration import SolverSettings
from worker.demo import SAMPLE
from worker.solve import pose, solve
from worker.solver.prior import DiffusersPrior, load_prior
from worker.stated import operator_of
from worker.tuning import BUNDLED
from worker.video import Beside, read_clip


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return read_clip(SAMPLE, 15).frames.float()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("task", Task)
def test_noise_never_makes_the_data_step_lose(prior: DiffusersPrior, truth: Tensor, task: Task, noise: str) -> None:
    """Nor with settings that no task was named for; the published one falls below what it was given in every case."""
    start, *published, ours = row(prior, truth, task, noise)
    assert ours > start - 1e-3
    assert "inpaint" in task or max(published) < start - 0.5
    if task not in (Task.inpaint, Task.super_resolution_x4):
        assert ours > start + 0.2


def test_what_is_not_stated_comes_from_the_clip(prior: DiffusersPrior, truth: Tensor) -> None:
    """The noise is estimated, never below what compression leaves, and rho grows with its square."""
    task = degradations_of(Task.super_resolution_x4)
    small = torch.nn.functional.avg_pool2d(truth[:5], 4)

    def posed(y: Tensor, sigma: float | None = None) -> list[float]:
        problem = pose(prior, y, task, Beside(), sigma, SolverSettings())
        data_step = problem.data_step()
        solve(prior, problem, SolverSettings(), data_step=data_step)
        settings = problem.settings(data_step)
        assert len(settings["rho"]) == len(settings["timesteps"])
        return [problem.noise.sigma, settings["rho"][-1]]

    noisy = small + 0.03 * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    assert posed(small)[0] == pytest.approx(1 / 255)
    assert posed(noisy)[0] == pytest.approx(0.03, rel=0.25)
    stated, doubled = posed(small, 0.01), posed(small, 0.02)
    assert stated[0] == 0.01
    assert math.isclose(doubled[1], 4 * stated[1])


def test_the_first_guess_of_what_moves_fast_is_taken_to_be_further_off(prior: DiffusersPrior, truth: Tensor) -> None:
    """Only where frames were mixed: else there is nothing that a still clip would not have too."""

    def floor(frames: Tensor, task: Task) -> float:
        stated: list[Degradation] = degradations_of(task)
        y = operator_of(stated, Beside(), prior.device).A(2 * frames - 1)
        return pose(prior, (y + 1) / 2, stated, Beside(), None, SolverSettings()).tuning.floor

    still = truth[:1].expand(9, -1, -1, -1).contiguous()
    fast = torch.stack([truth[0].roll(32 * n, -1) for n in range(9)])
    plus, alone = Task.super_resolution_x4_plus, Task.super_resolution_x4
    assert floor(still, plus) == BUNDLED[plus].floor
    assert BUNDLED[plus].floor < floor(fast, plus) <= 4 * BUNDLED[plus].floor
    assert floor(fast, alone) == BUNDLED[alone].floor
