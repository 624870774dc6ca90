"""From what a client states happened to a clip to the operators that stand for it."""

import torch

from app import degradations as stated
from app.degradations import Degradation
from worker.solver.kernels import disc_kernel, gaussian_kernel, motion_kernel
from worker.solver.operators import Chain, Mask, Operator
from worker.solver.spatial import Convolution, Downsample, GaussianBlur
from worker.solver.temporal import TemporalAverage, TemporalDownsample
from worker.video import Beside


def operator_of(degradations: list[Degradation], beside: Beside, device: torch.device) -> Chain:
    """The operators a client's list stands for."""
    return Chain([_operator(degradation, beside, device) for degradation in degradations])


def _operator(degradation: Degradation, beside: Beside, device: torch.device) -> Operator:
    match degradation:
        case stated.Downsample():
            return Downsample(degradation.factor, degradation.filter)
        case stated.GaussianBlur() if degradation.sigma is not None:
            return GaussianBlur(degradation.sigma)
        case stated.GaussianBlur():
            assert degradation.sigma_x is not None and degradation.sigma_y is not None  # its validator saw to that
            return Convolution(gaussian_kernel(degradation.sigma_x, degradation.sigma_y, degradation.angle))
        case stated.MotionBlur():
            return Convolution(motion_kernel(degradation.length, degradation.angle))
        case stated.DiscBlur():
            return Convolution(disc_kernel(degradation.radius))
        case stated.KernelBlur():
            kernel = beside.kernel if degradation.kernel is None else torch.tensor(degradation.kernel).double()
            if kernel is None:
                raise ValueError("a kernel is stated but none is given")
            return Convolution(kernel / kernel.sum())
        case stated.TemporalAverage():
            return TemporalAverage(degradation.window, degradation.boundary)
        case stated.TemporalDownsample():
            return TemporalDownsample(degradation.factor)
        case stated.Mask():
            if beside.mask is None:
                raise ValueError("a mask is stated but none is given")
            return Mask(beside.mask.to(device))
