"""The data step where frames were mixed: what an estimate is off by lasts, the longer the coarser."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.demo import SAMPLE
from worker.encode import write_clip
from worker.measures import psnr
from worker.solver.closed_form import Gram, closed_form, whitening
from worker.solver.data_step import data_step, likely_error
from worker.solver.evidence import autocorrelation
from worker.solver.memory import UNTOLD, likely_memories, memory_of
from worker.solver.noise import find_noise
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.spatial import Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage, TemporalDownsample
from worker.video import read_clip

NOISE = 0.01
MEMORIES = (0.9, 0.7, 0.5, 0.3, 0.1, 0.0)
RISE = (2.0, 1.7, 1.4, 1.2, 1.0, 0.9)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posed(operators: list[Operator], y: Tensor) -> Gram:
    gram = closed_form(Chain(operators), y)
    assert gram is not None
    return gram


def test_noise_that_lasts_is_made_white() -> None:
    noise = autocorrelation(0.7, 9)
    white = whitening(noise)
    torch.testing.assert_close(white @ noise @ white.T, torch.eye(9, dtype=torch.float64))


@pytest.mark.parametrize("height, width", [(1, 1), (5, 3), (64, 96), (33, 200)])
def test_the_octaves_are_every_frequency_once(height: int, width: int) -> None:
    gram = posed([TemporalAverage(3)], torch.zeros(4, 1, height, width, dtype=torch.float64))
    times = torch.zeros(height, width)
    for part in gram.parts():
        for rows, columns in part:
            times[rows, columns] += 1
    assert bool((times == 1).all())


@pytest.mark.parametrize(
    "operators",
    [
        [TemporalAverage(3), GaussianBlur(1.0)],
        [TemporalDownsample(2), Downsample(2)],
        [TemporalAverage(3, "valid"), GaussianBlur(0.7), Downsample(2, "bicubic")],
    ],
    ids=["blur", "pool", "bicubic"],
)
@pytest.mark.parametrize("lasts", [0.0, 0.6])
def test_the_correction_is_that_of_the_dense_equations(operators: list[Operator], lasts: float) -> None:
    """K A^T (A K A^T + rho N)^-1 r, where K and N go by octaves of the frequencies that B keeps apart."""
    rho, frames = 0.05, 6
    spatial = Chain(operators[1:])
    x = random(frames, 1, 8, 12)
    residual = random(*Chain(operators).A(x).shape, seed=1)
    gram = posed(operators, residual).remembering(MEMORIES, lasts, RISE)
    mix = gram.mix
    assert mix is not None and gram.rotation is not None

    blur = dense_frame(spatial, x)
    pixels = torch.eye(residual[0].numel(), dtype=torch.float64).view(-1, *residual.shape[1:])
    rotation = torch.stack([gram.rotation.forth(one).flatten() for one in pixels], 1)
    gathered = torch.zeros(mix.shape[1] * blur.shape[1], residual.numel(), dtype=torch.float64)
    noise = torch.zeros(residual[0].numel(), residual[0].numel(), dtype=torch.float64)
    for part, memory, strength in zip(gram.parts(), MEMORIES, RISE, strict=True):
        chosen = torch.zeros(gram.spectrum.shape[-2:], dtype=torch.bool)
        for rows, columns in part:
            chosen[rows, columns] = True
        mine = rotation[chosen.flatten()]
        noise += strength**2 * mine.T @ mine
        gathered += torch.kron(autocorrelation(memory, mix.shape[1]) @ mix.T, blur.T @ mine.T @ mine)
    degraded = torch.kron(mix, blur) @ gathered
    system = degraded + rho * torch.kron(autocorrelation(lasts, len(residual)), noise)
    expected = gathered @ torch.linalg.solve(system, residual.flatten())

    found = gram.correction(gram.rotate(residual), rho)
    assert found.shape == x.shape
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-8, atol=1e-8)


def dense_frame(spatial: Chain, x: Tensor) -> Tensor:
    """B as a matrix, (H' W', H W)."""
    columns = torch.eye(x[0].numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
    return spatial.A(columns).flatten(1).T.contiguous()


@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("memory", [0.0, 0.3, 0.6, 0.9])
def test_what_lasts_is_told_from_what_does_not(window: int, memory: float) -> None:
    frames = 25
    mix = TemporalAverage(window).matrix(frames, torch.float64, torch.device("cpu"))
    lasts = torch.linalg.cholesky(autocorrelation(memory, frames)) @ random(frames, 2000)
    series = mix @ lasts + NOISE * random(frames, 2000, seed=1)
    assert memory_of(series, mix, NOISE) == pytest.approx(memory, abs=0.02)


def test_series_that_tell_nothing_are_given_a_memory_between() -> None:
    mix = TemporalAverage(3).matrix(25, torch.float64, torch.device("cpu"))
    assert 0.3 < memory_of(torch.zeros(25, 0, dtype=torch.float64), mix, NOISE) < 0.7


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("size", [(3, 5), (16, 24)])
@pytest.mark.parametrize(
    "operators",
    [
        [TemporalAverage(7)],
        [TemporalAverage(4, "circular"), GaussianBlur(2.0)],
        [TemporalDownsample(3), Downsample(2)],
        [TemporalAverage(3, "valid")],
        [TemporalAverage(2), TemporalAverage(3)],
    ],
    ids=["average", "circular", "exposure", "valid", "two"],
)
def test_clips_of_any_length_and_size_have_some_memory(
    operators: list[Operator], size: tuple[int, int], frames: int
) -> None:
    """Also one frame, pixels that are fewer than octaves, and a clip in which nothing happens at all."""
    chain = Chain(operators)
    for y in (random(frames, 3, *size), torch.zeros(frames, 3, *size, dtype=torch.float64)):
        gram = posed(operators, y)
        memories = likely_memories(gram, chain, y - chain.A(chain.lift(y)), NOISE)
        assert all(0 <= memory < 1 for memory in memories)
        remembering = gram.remembering(memories)
        lifted = chain.lift(y)
        residual = y - chain.A(lifted)
        off = remembering.correction(remembering.rotate(residual), 0.1)
        assert off.shape == lifted.shape and off.isfinite().all()


def test_under_a_mask_one_memory_is_taken_for_granted() -> None:
    known = (torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    operators: list[Operator] = [TemporalAverage(3), Mask(known)]
    y = random(5, 3, 32, 48)
    assert likely_memories(posed(operators, y), Chain(operators), y, NOISE) == [UNTOLD]


def test_nothing_is_remembered_where_no_frames_were_mixed() -> None:
    y = random(5, 3, 32, 48)
    gram = posed([GaussianBlur(2.0)], y)
    assert gram.remembering(MEMORIES) is gram


@pytest.mark.parametrize("operators", [[TemporalAverage(7), GaussianBlur(2.0)], [TemporalAverage(7)]], ids=len)
def test_a_real_clip_comes_out_nearer_the_truth(operators: list[Operator]) -> None:
    """In noise of half a percent of the range, each with the trust that suits it best."""
    truth = 2 * read_clip(SAMPLE, 13).frames.double() - 1
    chain, noise = Chain(operators), 0.01
    y = chain.A(truth) + noise * random(*truth.shape)
    gram, lifted = posed(operators, y), chain.lift(y)
    remembering = gram.remembering(likely_memories(gram, chain, y - chain.A(chain.lift(y)), noise))
    without, remembered = (
        max(psnr(data_step(chain, one, lifted, y, (noise / r) ** 2), truth) for r in (0.05, 0.1, 0.2))
        for one in (gram, remembering)
    )
    assert remembered > without + 0.05


def test_a_still_clip_is_not_made_worse(tmp_path: Path) -> None:
    """Noise of H.264 is the same in every frame of it; taken for white, what stands still is trusted far too much."""
    sample = read_clip(SAMPLE, 9)
    truth = sample.frames[:1].float().expand(9, -1, -1, -1)
    chain = Chain([TemporalAverage(7), GaussianBlur(3.0)])
    write_clip(tmp_path / "y.mp4", chain.A(truth), sample, pts=sample.pts[:9], crf=10)
    y = read_clip(tmp_path / "y.mp4").frames.float()
    gram = closed_form(chain, y)
    assert gram is not None
    noise = find_noise(y, None, gram)
    assert noise.memory > 0.8
    y, truth = 2 * y - 1, 2 * truth - 1
    memories, found = likely_memories(gram, chain, y - chain.A(chain.lift(y)), 2 * noise.sigma), []
    for memory in (0, noise.memory):
        own = gram.remembering(memories, memory)
        error = likely_error(own, own.rotate(y - chain.A(y)).mean(1, keepdim=True) * 3**0.5, 2 * noise.sigma)
        found.append(psnr(data_step(chain, own, y, y, (2 * noise.sigma / error) ** 2), truth))
    assert found[1] > psnr(y, truth) + 1
    assert found[1] > found[0] + 1
