"""Kernels and filters are what their names say: against moments, direct sums, and other people's code."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from worker.solver.kernels import disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.spatial import Convolution, Downsample, GaussianBlur


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (x, y) and covariance, x to the right and y upwards, in pixels."""
    h, w = kernel.shape
    y, x = torch.meshgrid(h // 2 - torch.arange(h).double(), torch.arange(w).double() - w // 2, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()])
    mean = points @ kernel.flatten()
    return mean, (points - mean[:, None]) * kernel.flatten() @ (points - mean[:, None]).T


@pytest.mark.parametrize("angle", [0, 30, 90, -45])
def test_a_gaussian_has_its_covariance(angle: float) -> None:
    kernel = gaussian_kernel(3.0, 1.2, angle)
    axis = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    across = torch.tensor([-axis[1], axis[0]], dtype=torch.float64)
    mean, covariance = moments(kernel)
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    expected = 3.0**2 * torch.outer(axis, axis) + 1.2**2 * torch.outer(across, across)
    torch.testing.assert_close(covariance, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("length", "angle"), [(9.0, 0), (9.0, 90), (12.5, 35), (3.0, -60)])
def test_a_movement_spreads_light_evenly_along_its_way(length: float, angle: float) -> None:
    """Variance L^2 / 12 along the way; sharing out between pixels adds f (1 - f) <= 1/4, on average 1/6."""
    kernel = motion_kernel(length, angle)
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)
    mean, covariance = moments(kernel)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    axis = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    assert float(axis @ covariance @ axis) == pytest.approx(length**2 / 12 + 1 / 6, rel=0.02)
    assert 0 <= float(covariance.trace() - axis @ covariance @ axis) < 0.26


@pytest.mark.parametrize("radius", [1.0, 2.5, 7.0])
def test_a_disc_is_even_inside_and_zero_outside(radius: float) -> None:
    kernel = disc_kernel(radius)
    reach = kernel.shape[0] // 2
    offsets = torch.arange(-reach, reach + 1).double()
    distance = torch.hypot(offsets[:, None], offsets[None])
    height = 1 / (math.pi * radius**2)
    assert ((kernel - height).abs() < 0.01 * height)[distance < radius - 0.71].all()
    assert (kernel[distance > radius + 0.71] == 0).all()
    assert kernel.sum() == pytest.approx(1)
    assert Convolution(kernel).mirrored


def test_a_convolution_is_the_sum_it_is_defined_by() -> None:
    """Light of pixel (i, j) falls on (i, j) + offset; what falls beyond an edge comes back mirrored."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(3, 4, dtype=torch.float64, generator=generator)
    x = torch.rand(1, 1, 5, 6, dtype=torch.float64, generator=generator)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(6):
            for a in range(3):
                for b in range(4):  # the light that reaches (i, j) by this tap comes from (i, j) - offset
                    row, column = i - (a - 1), j - (b - 2)
                    row = -1 - row if row < 0 else 9 - row if row > 4 else row
                    column = -1 - column if column < 0 else 11 - column if column > 5 else column
                    expected[i, j] += kernel[a, b] * x[0, 0, row, column]
    torch.testing.assert_close(Convolution(kernel).A(x)[0, 0], expected)


def test_a_round_gaussian_is_the_separable_one() -> None:
    x = torch.rand(2, 3, 20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Convolution(gaussian_kernel(2.0, 2.0)).A(x), GaussianBlur(2.0).A(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_filters_are_those_of_pillow(filter: str) -> None:
    generator = np.random.default_rng(0)
    picture = generator.random((24, 36), dtype=np.float32)
    shrunk = Image.fromarray(picture).resize((9, 6), getattr(Image.Resampling, filter.upper()))
    x = torch.from_numpy(picture)[None, None]
    found = Downsample(4, "bicubic" if filter == "bicubic" else "bilinear").A(x)[0, 0]
    np.testing.assert_allclose(found.numpy(), np.asarray(shrunk), rtol=0, atol=1e-5)
