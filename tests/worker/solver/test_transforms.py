"""The DCT and the low-pass, each against its plain matrix."""

import pytest
import torch
from torch import Tensor

from worker.solver.dct import dct, dct_matrix, inverse_dct
from worker.solver.lowpass import BAND, gaussian_lowpass, gaussian_matrix

CPU = torch.device("cpu")
SIZES = [(1, 7), (24, 40), (BAND, BAND + 1), (2 * BAND + 44, 3 * BAND)]


def clip(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
def test_the_dct_is_that_of_its_matrix_and_its_inverse_undoes_it(size: tuple[int, int]) -> None:
    x = clip(*size)
    down, across = (dct_matrix(n, torch.float64, CPU) for n in size)
    torch.testing.assert_close(dct(x), down @ x @ across.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_dct(dct(x)), x, rtol=0, atol=1e-12)


def test_the_dct_keeps_the_type_and_follows_strides() -> None:
    x = clip(24, 40, torch.float32)
    assert dct(x).dtype == inverse_dct(x).dtype == torch.float32
    torch.testing.assert_close(dct(x.flip(-1)[..., ::2]), dct(x.flip(-1)[..., ::2].contiguous()), rtol=0, atol=0)


def test_elsewhere_the_dct_is_a_matrix_product() -> None:
    """Told by shapes alone: the meta device computes nothing."""
    x = torch.empty(2, 3, 24, 40, device="meta")
    assert dct(x).device.type == inverse_dct(x).device.type == "meta"
    assert dct(x).shape == inverse_dct(x).shape == x.shape


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.3, 3.0, 40.0])
def test_bands_leave_nothing_out(size: tuple[int, int], sigma: float) -> None:
    """Also where a blur reaches farther than the frame."""
    x = clip(*size)
    down, across = (gaussian_matrix(n, sigma, torch.float64, CPU) for n in size)
    torch.testing.assert_close(gaussian_lowpass(x, sigma), down @ x @ across.T, rtol=0, atol=1e-12)
