"""Frames in tiles against whole frames: covered, weighed, and no seam to be seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from tiles import seam
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from app.degradations import Task, degradations_of
from app.restoration import SolverSettings
from worker.demo import SAMPLE
from worker.measures import psnr
from worker.solve import Problem, pose, solve
from worker.solver.prior import DiffusersPrior, load_prior, mirror
from worker.solver.restore import restore
from worker.solver.tiles import Tiled, Tiling
from worker.stated import operator_of
from worker.video import Beside, read_clip

MEGAPIXEL = 1024 * 1024
PIXELS = 128 * 192  # of a tile, here
NOWHERE = 3.0  # no line of a seam jumps by more than this many times what lines around it do
Cut = Callable[[Tensor], Tensor]


@dataclass
class Local:
    """A prior to which each latent is all there is, so that tiles change nothing; it remembers what it was shown."""

    shown: list[tuple[int, int]] = field(default_factory=list)

    def encode(self, x: Tensor) -> Tensor:
        self.shown.append((x.shape[-2], x.shape[-1]))
        return pixel_unshuffle(mirror(x, -x.shape[-2] % 16, -x.shape[-1] % 16), 4)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        self.shown.append((4 * z.shape[-2], 4 * z.shape[-1]))
        return pixel_shuffle(z, 4)[..., : size[0], : size[1]]

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        self.shown.append((4 * z.shape[-2], 4 * z.shape[-1]))
        return torch.sin(z * t), torch.cos(z * t)


@dataclass
class Butted:
    """The same four quarters put side by side: what tiles must not look like."""

    prior: DiffusersPrior

    def encode(self, x: Tensor) -> Tensor:
        return quarters(x, self.prior.encode)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return quarters(z, lambda part: self.prior.decode(part, (size[0] // 2, size[1] // 2)))

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        eps = quarters(z, lambda part: self.prior.predict_noise(part, t)[0])
        return eps, eps


def quarters(x: Tensor, work: Cut) -> Tensor:
    rows = [torch.cat([work(part) for part in half.chunk(2, dim=-1)], dim=-1) for half in x.chunk(2, dim=-2)]
    return torch.cat(rows, dim=-2)


@pytest.fixture(scope="module")
def prior() -> DiffusersPrior:
    return load_prior()


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """(1, 3, 160, 256) in [0, 1]."""
    return read_clip(SAMPLE, 1).frames.float()


@pytest.fixture(scope="module")
def problem(prior: DiffusersPrior, truth: Tensor) -> Problem:
    """The sample blurred and rounded to 8 bits, to be solved in tiles."""
    stated = degradations_of(Task.deblur)
    y = (255 * operator_of(stated, Beside(), prior.device).A(truth)).round() / 255
    return pose(prior, y, stated, Beside(), None, SolverSettings(), tile_pixels=PIXELS)


@pytest.fixture(scope="module")
def whole(prior: DiffusersPrior, problem: Problem) -> Tensor:
    """The sample restored in one piece, in [-1, 1]."""
    return solve(prior, replace(problem, tiling=Tiling.within(MEGAPIXEL, 160, 256, prior.multiple)), SolverSettings())


@pytest.mark.parametrize("multiple", [16, 32, 64])
@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (2304, 4096), (1025, 1024), (3000, 700), (9000, 65), (1311, 1777)]
)
def test_tiles_cover_frames_evenly_and_their_weights_sum_to_one(height: int, width: int, multiple: int) -> None:
    tiling = Tiling.within(MEGAPIXEL // 2, height, width, multiple)
    assert len(tiling) > 1
    assert all(side % multiple == 0 for side in (*tiling.padded, *tiling.tile, *tiling.tops, *tiling.lefts))
    assert math.prod(tiling.tile) <= MEGAPIXEL // 2
    assert 0 <= tiling.padded[0] - height < multiple
    assert 0 <= tiling.padded[1] - width < multiple
    total = torch.zeros(tiling.padded[0] // 8, tiling.padded[1] // 8, dtype=torch.float64)
    for place, (down, across) in zip(tiling, tiling.weights(8), strict=True):
        assert (place.rows.stop - place.rows.start, place.columns.stop - place.columns.start) == tiling.tile
        rows, columns = place.at(8)
        weight = down * across
        assert weight.min() >= 0
        total[rows, columns] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    for starts, side in ((tiling.tops, tiling.tile[0]), (tiling.lefts, tiling.tile[1])):
        steps = [b - a for a, b in pairwise(starts)]
        assert all(side - step >= 3 * multiple for step in steps)
        assert max(steps, default=0) - min(steps, default=0) <= multiple


@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(768, 1280, 1), (1024, 1024, 1), (1023, 1025, 1), (1025, 1024, 2)]
)
def test_a_frame_of_no_more_than_the_budget_is_one_tile(height: int, width: int, tiles: int) -> None:
    assert len(Tiling.within(MEGAPIXEL, height, width, 32)) == tiles


def test_a_budget_too_small_for_an_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="make no tiles of 1024 pixels"):
        Tiling.within(32 * 32, 256, 256, 16)


@pytest.mark.parametrize("shape", [(160, 256), (161, 250), (175, 333)])
def test_where_latents_do_not_look_around_tiles_change_nothing(shape: tuple[int, int]) -> None:
    local = Local()
    tiled = Tiled(local, Tiling.within(PIXELS, *shape, multiple=16))
    x = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = tiled.encode(x)
    back, noise = tiled.decode(z, shape), tiled.predict_noise(z, 3)
    assert len(local.shown) == 3 * len(tiled.tiling) > 3
    assert max(h * w for h, w in local.shown) <= PIXELS
    torch.testing.assert_close(z, local.encode(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(noise, local.predict_noise(z, 3), rtol=1e-12, atol=1e-12)


@torch.inference_mode()
def test_one_tile_gives_the_bits_of_the_whole(prior: DiffusersPrior) -> None:
    tiled = Tiled(prior, Tiling.within(MEGAPIXEL, 33, 50, prior.multiple))
    x = torch.rand(2, 3, 33, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = prior.encode(x)
    assert torch.equal(tiled.encode(x), z)
    assert torch.equal(tiled.decode(z, (33, 50)), prior.decode(z, (33, 50)))
    assert torch.equal(tiled.predict_noise(z, 41)[0], prior.predict_noise(z, 41)[0])


@pytest.mark.parametrize("cropped", [(160, 256), (151, 249)])
@torch.inference_mode()
def test_the_autoencoder_does_not_see_where_tiles_end(
    prior: DiffusersPrior, truth: Tensor, cropped: tuple[int, int]
) -> None:
    height, width = cropped
    x = 2 * truth[..., :height, :width] - 1
    tiled = Tiled(prior, Tiling.within(PIXELS, height, width, prior.multiple))
    z = prior.encode(x)
    torch.testing.assert_close(tiled.encode(x), z, rtol=0, atol=1e-4)
    torch.testing.assert_close(tiled.decode(z, cropped), prior.decode(z, cropped), rtol=0, atol=1e-4)
    size = (height // 32 * 32, width // 32 * 32)
    assert (
        quarters(x[..., : size[0], : size[1]], prior.encode) - prior.encode(x[..., : size[0], : size[1]])
    ).abs().max() > 0.05


@torch.inference_mode()
def test_the_noise_of_tiles_is_near_that_of_the_whole_and_has_no_seam(prior: DiffusersPrior, truth: Tensor) -> None:
    """Not equal: the UNet's normalisation and attention see all of what they are given."""
    tiled = Tiled(prior, Tiling.within(PIXELS, 160, 256, prior.multiple))
    z = prior.encode(2 * truth - 1)
    drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    for t in (41, 121, 281):
        abar = float(prior.abar[t])
        noisy = abar**0.5 * z + (1 - abar) ** 0.5 * drawn
        eps = prior.predict_noise(noisy, t)[0]
        found = tiled.predict_noise(noisy, t)[0]
        assert (found - eps).square().mean().sqrt() < 0.12 * eps.square().mean().sqrt()
        pixels = [x.repeat_interleave(4, -1).repeat_interleave(4, -2) for x in (found, eps)]
        assert seam(pixels[0], pixels[1], tiled.tiling) < NOWHERE


def test_a_clip_restored_in_tiles_is_as_good_as_whole_and_has_no_seam(
    prior: DiffusersPrior, truth: Tensor, problem: Problem, whole: Tensor
) -> None:
    tiled = solve(prior, problem, SolverSettings())
    assert len(problem.tiling) > 2
    assert psnr((tiled + 1) / 2, truth) == pytest.approx(psnr((whole + 1) / 2, truth), abs=0.1)
    assert (tiled - whole).abs().max() < 8 / 255
    assert seam(tiled, whole, problem.tiling) < NOWHERE
    assert torch.equal(tiled, solve(prior, problem, SolverSettings()))


def test_tiles_put_side_by_side_would_show(prior: DiffusersPrior, problem: Problem, whole: Tensor) -> None:
    """The measure of seams finds them where they are."""
    generator = torch.Generator().manual_seed(SolverSettings().seed)
    butted = restore(Butted(prior), problem.lifted, problem.data_step(), problem.sampling, generator).clamp(-1, 1)
    assert seam(butted, whole, Tiling((160, 256), (80, 128), (0, 80), (0, 128))) > 4 * NOWHERE
