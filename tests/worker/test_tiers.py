"""Tiers: what is left out, and that what comes back still fits the measurement."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings, Tier
from tests.worker.solver.test_loop import Wavy
from worker.demo import SAMPLE
from worker.measures import psnr
from worker.solve import Problem, pose, solve
from worker.solver.halved import Halved
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.restore import Sampling, ddim_inversion, straight_inversion
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.spatial import GaussianBlur
from worker.tiers import at_tier
from worker.video import Beside, read_clip

TIERS: tuple[Tier, ...] = ("exact", "fast", "draft")


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


@pytest.mark.parametrize(
    ("tau", "fast", "draft"),
    [
        (0.30, [281, 201, 121, 41], [281]),
        (0.15, [121, 81, 41], [121]),
        (0.09, [81, 41], [81]),
        (0.05, [41], [41]),
        (0.02, [1], [1]),
    ],
)
def test_steps_that_are_left(tau: float, fast: Sequence[int], draft: Sequence[int]) -> None:
    whole = Sampling(Schedule.leading(scaled_linear(), 25, tau))
    assert at_tier(whole, "exact") is whole
    assert list(at_tier(whole, "fast").schedule.timesteps) == fast
    assert list(at_tier(whole, "draft").schedule.timesteps) == draft
    assert at_tier(whole, "draft").init == "random"


def test_the_straight_inversion_is_that_of_two_timesteps() -> None:
    whole = Schedule.leading(scaled_linear(), 25, 0.3)
    z = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    prior = Wavy()
    found = straight_inversion(prior, z, whole)
    assert prior.asked == [1]
    torch.testing.assert_close(found, ddim_inversion(Wavy(), z, Schedule(whole.abar, (281, 1))))
    assert straight_inversion(prior, z, Schedule(whole.abar, (41,))) is z


class Seen:
    """A prior whose latents are the frames themselves, and which notes what it is shown."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def encode(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return x

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        assert z.shape[-2:] == size
        return z

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return z, z


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 2)])
def test_a_halved_prior_sees_half_and_gives_back_the_whole(size: tuple[int, int]) -> None:
    seen = Seen()
    smooth = GaussianBlur(4.0).A(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    halved = Halved(seen)
    back = halved.decode(halved.encode(smooth), size)
    assert seen.sizes == [(-(-size[0] // 2), -(-size[1] // 2))]
    assert back.shape == smooth.shape
    assert float((back - smooth).abs().max()) < 0.02


def posed(prior: DiffusersPrior, tier: Tier, task: Task) -> tuple[Tensor, Problem]:
    x = read_clip(SAMPLE, 5).frames[..., :80, :120].float()
    degradations = degradations_of(task)
    mask = (torch.rand(1, 1, 80, 120, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    beside = Beside(mask if degradations[-1].kind == "mask" else None)
    y = pose(prior, x, degradations, beside, None, SolverSettings()).operator.A(x)
    return x, pose(prior, (y * 255).round() / 255, degradations, beside, None, SolverSettings(), tier=tier)


@pytest.mark.parametrize("task", [Task.deblur, Task.super_resolution_x4, Task.inpaint])
def test_every_tier_fits_the_measurement_and_fast_is_near_exact(prior: DiffusersPrior, task: Task) -> None:
    found = {}
    for tier in TIERS:
        x, problem = posed(prior, tier, task)
        assert problem.halved is (tier == "draft")
        result = solve(prior, problem, SolverSettings())
        found[tier] = psnr((result + 1) / 2, x)
        assert problem.residual(result) < 0.02
    assert found["fast"] > max(found["exact"] - 1, psnr((problem.lifted + 1) / 2, x))
    assert found["draft"] > found["exact"] - 2


def test_a_draft_is_tiled_by_the_size_that_the_prior_sees(prior: DiffusersPrior) -> None:
    y, stated = torch.rand(1, 3, 520, 600), degradations_of(Task.deblur)
    whole, draft = (
        pose(prior, y, stated, Beside(), None, SolverSettings(), tile_pixels=1 << 18, tier=tier)
        for tier in ("exact", "draft")
    )
    assert len(whole.tiling) > 1
    assert len(draft.tiling) == 1
