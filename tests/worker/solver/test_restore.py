"""The whole loop, with a prior that knows the answer and with the bundled one."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.worker.solver.oracle import Oracle
from worker.solver.batches import MicroBatches
from worker.solver.closed_form import closed_form
from worker.solver.data_step import Proximal, Trust
from worker.solver.operators import Chain, Mask
from worker.solver.prior import DiffusersPrior, load_prior
from worker.solver.restore import Sampling, restore
from worker.solver.schedule import Schedule, scaled_linear
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage

DEGRADED = {
    "deblur": Chain([GaussianBlur(1.5)]),
    "deblur_plus": Chain([TemporalAverage(3), GaussianBlur(1.5)]),
    "super_resolution": Chain([Downsample(2)]),
    "inpaint": Chain([Mask((torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(1)) > 0.5).double())]),
    "valid": Chain([TemporalAverage(2, "valid")]),
}


def clip(frames: int, height: int, width: int) -> Tensor:
    """Noise that brightens from frame to frame, so that the oracle can tell even blurred frames from one another."""
    generator = torch.Generator().manual_seed(frames * height * width)
    noise = torch.rand(frames, 3, height, width, generator=generator, dtype=torch.float64) - 0.5
    return 0.5 * noise + torch.linspace(-0.7, 0.7, frames, dtype=torch.float64).view(-1, 1, 1, 1)


def sampling(abar: Tensor | None = None, steps: int = 25, tau: float = 0.3) -> Sampling:
    return Sampling(Schedule.leading(scaled_linear() if abar is None else abar, steps, tau))


def run(
    prior: Oracle | DiffusersPrior,
    operator: Chain,
    y: Tensor,
    how: Sampling,
    seed: int = 0,
    noise: float = 0.01,
    micro_batch: int = 2,
) -> Tensor:
    step = Proximal(operator, closed_form(operator, y), y, how.schedule, Trust(noise))
    generator, batches = torch.Generator().manual_seed(seed), MicroBatches(micro_batch)
    return restore(prior, operator.lift(y), step, how, generator, batches=batches)


@pytest.fixture(scope="module")
def tiny() -> DiffusersPrior:
    return load_prior("bundled")


@pytest.mark.parametrize("task", DEGRADED)
@pytest.mark.parametrize("init", ["every_frame", "first_frame", "random"])
def test_an_oracle_gives_back_the_true_clip(task: str, init: Literal["every_frame", "first_frame", "random"]) -> None:
    x, operator = clip(5 if init != "first_frame" else 1, 16, 24), DEGRADED[task]
    if task in ("valid", "deblur_plus") and len(x) == 1:
        x = x.expand(3, -1, -1, -1)
    how = replace(sampling(), init=init, lowpass=0.0)
    restored = run(Oracle(x), operator, operator.A(x), how)
    torch.testing.assert_close(restored, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 23), (3, 31, 16)])
def test_any_number_of_frames_of_any_size(shape: tuple[int, int, int]) -> None:
    x, operator = clip(*shape), Chain([GaussianBlur(1.0)])
    torch.testing.assert_close(run(Oracle(x), operator, operator.A(x), sampling()), x, rtol=0, atol=1e-6)


def test_the_prior_sees_one_micro_batch_at_a_time() -> None:
    x, operator = clip(7, 16, 16), Chain([GaussianBlur(1.0)])
    oracle = Oracle(x)
    run(oracle, operator, operator.A(x), sampling(), micro_batch=3)
    assert set(oracle.batches) == {3, 1}


def test_the_same_seed_gives_the_same_bits(tiny: DiffusersPrior) -> None:
    x, operator = clip(3, 33, 50).float(), Chain([TemporalAverage(3), GaussianBlur(2.0)])
    y, how = operator.A(x), sampling(tiny.abar, tau=0.15)
    first, again, other = (run(tiny, operator, y, how, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_micro_batches_change_nothing_but_rounding(tiny: DiffusersPrior) -> None:
    x, operator = clip(5, 32, 32).float(), Chain([Downsample(4)])
    y, how = operator.A(x), sampling(tiny.abar, tau=0.15)
    one, four = (run(tiny, operator, y, how, micro_batch=n) for n in (1, 4))
    torch.testing.assert_close(one, four, rtol=0, atol=1e-3)


def test_the_last_data_step_brings_the_clip_to_the_measurement(tiny: DiffusersPrior) -> None:
    x, operator = clip(2, 32, 32).float(), Chain([Downsample(4)])
    y, how = operator.A(x), sampling(tiny.abar, tau=0.15)

    def residual(final: Literal["data", "prior"]) -> float:
        restored = run(tiny, operator, y, replace(how, final=final), noise=0.001)
        return float((y - operator.A(restored)).square().mean().sqrt())

    # A A^T = I / 16, and rho = (0.001 / 0.06)^2: a thousandth of the residual is left, and rounding.
    assert residual("data") < 0.02 * residual("prior")


def test_a_prompt_takes_the_second_branch(tiny: DiffusersPrior) -> None:
    z = torch.randn(2, tiny.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        guided, unguided = tiny.predict_noise(z, 41)
        assert guided is unguided
        guided, unguided = tiny.prompted("a cat", 0.6).predict_noise(z, 41)
        full, _ = tiny.prompted("a cat", 1.0).predict_noise(z, 41)
    assert not torch.equal(guided, unguided)
    torch.testing.assert_close(guided, unguided + 0.6 * (full - unguided), rtol=1e-4, atol=1e-5)


def test_the_schedule_is_that_of_the_paper() -> None:
    schedule = Schedule.leading(scaled_linear(), 25, 0.30)
    assert schedule.timesteps == (281, 241, 201, 161, 121, 81, 41, 1)
    assert len(Schedule.leading(scaled_linear(), 25, 0.15).timesteps) == 4
    assert len(Schedule.leading(scaled_linear(), 25, 0.45).timesteps) == 12
    assert float(schedule.abar[281]) == pytest.approx(0.62239, abs=1e-5)


def test_whoever_watches_hears_of_every_micro_batch_that_is_encoded_first(tiny: DiffusersPrior) -> None:
    """Or a job could not be stopped while a whole part is encoded."""
    x = torch.zeros(6, 3, 32, 32)
    how = Sampling(Schedule.leading(tiny.abar, 10, 0.2))

    def stop(stage: str, frames: int) -> None:
        assert (stage, frames) == ("invert", 0)
        raise KeyboardInterrupt

    encoded: list[int] = []

    class Counting:
        def encode(self, x: Tensor) -> Tensor:
            encoded.append(len(x))
            return tiny.encode(x)

    with pytest.raises(KeyboardInterrupt):
        restore(Counting(), x, lambda x, t: x, how, torch.Generator(), stop, MicroBatches(2))  # type: ignore[arg-type]
    assert encoded == [2]
