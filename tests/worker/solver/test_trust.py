"""How far the data step trusts an estimate: as far as what it fails to explain allows."""

import math

import pytest
import torch
from torch import Tensor

from worker.solver.closed_form import Gram, closed_form
from worker.solver.data_step import Proximal, Trust, further_off, likely_error
from worker.solver.operators import Chain, Mask
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage

NOISE = 0.01
OPERATORS = {
    "blur": Chain([GaussianBlur(2.0)]),
    "pool": Chain([Downsample(4)]),
    "plus": Chain([TemporalAverage(3), GaussianBlur(2.0)]),
    "mask": Chain([Mask((torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(1)) > 0.5).float())]),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posed(operator: Chain, error: float) -> tuple[Tensor, Tensor, Gram]:
    """A measurement, an estimate of the clip that is off by white noise of that strength, and the gram."""
    x = random(5, 3, 64, 96)
    y = operator.A(x)
    y = y + NOISE * random(*y.shape, seed=1)
    gram = closed_form(operator, y)
    assert gram is not None
    return y, x + error * random(*x.shape, seed=2), gram


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("error", [0.02, 0.3])
def test_the_error_of_an_estimate_is_read_off_what_it_fails_to_explain(operator: Chain, error: float) -> None:
    y, x0, gram = posed(operator, error)
    assert likely_error(gram, gram.rotate(y - operator.A(x0)), NOISE) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("noise", [NOISE, NOISE / 2.8])
@pytest.mark.parametrize(("error", "off"), [(0.1, 1.0), (0.6, 2.25), (2.0, 4.0)])
def test_how_far_off_grows_with_the_square_of_what_is_usual(error: float, off: float, noise: float) -> None:
    """Also where the noise is several times what it was taken for."""
    operator = OPERATORS["plus"]
    y, x0, gram = posed(operator, error)
    assert further_off(gram, y - operator.A(x0), noise) == pytest.approx(off, rel=0.05)


def test_an_estimate_that_explains_all_but_the_noise_is_left_alone() -> None:
    operator = OPERATORS["blur"]
    y, x0, gram = posed(operator, 0.0)
    assert likely_error(gram, gram.rotate(y - operator.A(x0)), NOISE) < NOISE / 2


@pytest.mark.parametrize(("known", "error", "used"), [(True, 0.025, 0.05), (True, 0.5, 0.2), (False, 0.025, 0.2)])
def test_settings_bound_the_error_from_above(known: bool, error: float, used: float) -> None:
    """Below, it is two thirds of the way to the likeliest, as factors go; where the noise is a guess they are all."""
    operator = OPERATORS["blur"]
    y, x0, gram = posed(operator, error)
    schedule = Schedule.leading(scaled_linear(), 25, 0.3)
    step = Proximal(operator, gram, y, schedule, Trust(NOISE, floor=0.2, slope=0, known=known))
    step(x0, 121)
    assert NOISE / math.sqrt(step.rho[0]) == pytest.approx(used, rel=0.1)
