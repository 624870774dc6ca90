"""What is left of a blur in all parts of a frame alike, on the sample clip and a texture, after rounding to 8 bits."""

import math

import pytest
import torch
from torch import Tensor

from worker.demo import SAMPLE
from worker.solver.blind import MORE, NotIdentified, identify
from worker.solver.blind_parts import in_common
from worker.solver.blind_space import Shape
from worker.solver.kernels import disc_kernel, gaussian_kernel
from worker.solver.spatial import Convolution
from worker.video import read_clip


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """(25, 1, 160, 256)."""
    return read_clip(SAMPLE).frames.float().mean(1, keepdim=True)


def seen(x: Tensor, *kernels: Tensor) -> Tensor:
    """(T, H, W): what 8 bits hold of a clip after these, one after the other."""
    for kernel in kernels:
        x = Convolution(kernel / kernel.sum()).A(x)
    return ((x.clamp(0, 1) * 255).round() / 255)[:, 0]


def two_spots() -> Tensor:
    kernel = torch.zeros(13, 9, dtype=torch.float64)
    kernel[3, 4], kernel[9, 4] = 0.6, 0.4
    return kernel


def arc() -> Tensor:
    turn = torch.deg2rad(torch.arange(10, 170, 0.1, dtype=torch.float64))
    place = ((11 - 5 * turn.sin()).round().long(), (8 + 5 * turn.cos()).round().long())
    kernel = torch.zeros(17, 17, dtype=torch.float64)
    kernel.index_put_(place, torch.ones(len(turn), dtype=torch.float64), accumulate=True)
    return kernel


def texture(size: int = 256) -> Tensor:
    """(4, 1, size, size): grain that falls off faster the more upright its waves, in every part."""
    generator = torch.Generator().manual_seed(0)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    f = (fy.square() + fx.square()).sqrt().clamp_min(1 / size)
    slope = 1.1 + 0.6 * (fy / f).square()
    white = torch.fft.rfft2(torch.randn(4, 1, size, size, generator=generator))
    x: Tensor = torch.fft.irfft2(white * (f / 0.02) ** -slope)
    return 0.5 + 0.12 * x / x.std()


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_nothing_is_left_of_the_right_gaussian(clip: Tensor, sigma: float) -> None:
    assert in_common(seen(clip, gaussian_kernel(sigma, sigma)), Shape("gaussian", sigma)) < MORE / 2


def test_nothing_is_left_of_the_right_disc(clip: Tensor) -> None:
    assert in_common(seen(clip, disc_kernel(3)), Shape("disc", 3)) < MORE / 2


def test_a_direction_that_a_picture_has_everywhere_is_no_blur() -> None:
    """Horizons and fences: each direction has a law of its own, in all quarters."""
    blurred = seen(texture(), gaussian_kernel(1.5, 1.5))
    assert in_common(blurred, Shape("gaussian", 1.5)) < MORE / 2
    both = seen(texture(), two_spots(), gaussian_kernel(1.5, 1.5))
    assert in_common(both, Shape("gaussian", 1.5)) > MORE


def test_odd_sizes_have_quarters_too(clip: Tensor) -> None:
    cropped = seen(clip, gaussian_kernel(2, 2))[:, :134, :202]
    assert math.isfinite(in_common(cropped, Shape("gaussian", 2.0)))


@pytest.mark.parametrize("kernel", [arc(), two_spots()], ids=["arc", "two spots"])
@pytest.mark.parametrize("softness", [1.3, 1.9])
def test_a_soft_clip_does_not_hide_what_else_happened(clip: Tensor, kernel: Tensor, softness: float) -> None:
    """The softness alone would pass for a Gaussian at full confidence."""
    with pytest.raises(NotIdentified, match="in common to all parts") as refused:
        identify(seen(clip, gaussian_kernel(softness, softness), kernel))
    assert refused.value.confidence is not None and refused.value.confidence > 0.9
