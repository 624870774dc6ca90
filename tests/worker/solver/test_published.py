"""The published solver's own numbers, out of this project's loop (tests/golden), and its pieces one by one."""

from pathlib import Path

import pytest
import torch

from parity import parity
from worker.solver.operators import Chain, Mask
from worker.solver.published import (
    ReflectedBlur,
    UnscaledDownsample,
    published_data_step,
    published_operators,
    published_schedule,
)
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("case", ["temporal_deblur", "deblur_plus", "sr", "deblur_prompt"])
def test_the_loop_gives_the_published_solvers_numbers(case: str) -> None:
    """To 1e-4 in the output, of which one scheduler constant, float32 in the original, takes up to 1e-5."""
    found = parity(GOLDEN / f"{case}.npz", GOLDEN / "tiny-random-sdxl")
    assert found.measurement < 1e-7  # which the file holds in float32
    assert found.inverted < 1e-7
    assert found.output < 1e-4


def test_its_schedule_is_one_step_late() -> None:
    """t = 281 uses 0.62406 where the model's own table says 0.62239."""
    own = Schedule.leading(scaled_linear(), 25, 0.3)
    shifted = published_schedule(own)
    assert shifted.timesteps == own.timesteps
    assert float(own.abar[281]) == pytest.approx(0.62239, abs=5e-6)
    assert float(shifted.abar[281]) == pytest.approx(0.62406, abs=5e-6)


def test_its_operators_stand_for_the_same_degradations() -> None:
    chain = published_operators([TemporalAverage(7), GaussianBlur(3.0), Downsample(4)])
    assert list(chain.operators) == [TemporalAverage(7, "circular"), ReflectedBlur(3.0), UnscaledDownsample(4)]
    with pytest.raises(ValueError, match="does not know Mask"):
        published_operators([Mask(torch.ones(1, 1, 4, 4))])


def test_its_data_step_diverges_on_eight_bits_and_ours_does_not() -> None:
    """The reason for every default of this project: 20 iterations on a rounded measurement destroy the clip."""
    generator = torch.Generator().manual_seed(0)
    x = (
        2 * torch.nn.functional.interpolate(torch.rand(9, 3, 12, 20, generator=generator), scale_factor=8.0).double()
        - 1
    )
    operator = published_operators([TemporalAverage(7), GaussianBlur(3.0)])
    exact = operator.A(x)
    rounded = ((exact + 1) / 2 * 255).round() / 255 * 2 - 1

    def error(y: torch.Tensor, iterations: int) -> float:
        return float((published_data_step(operator, y, iterations)(y, 1) - x).square().mean().sqrt())

    assert error(exact, 10) < error(exact, 0)
    assert error(rounded, 30) > 2 * error(rounded, 0)


def test_conjugate_gradients_of_a_chain_without_stand_ins_solve_the_system() -> None:
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = Chain([TemporalAverage(3, "circular")])  # its adjoint is exact, and it is invertible
    solved = published_data_step(operator, operator.A(x), 50)(torch.zeros_like(x), 1)
    torch.testing.assert_close(solved, x, rtol=0, atol=1e-4)
