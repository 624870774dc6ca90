"""Measures of quality, for clips (T, 3, H, W) in [0, 1]."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(clip: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio over the whole clip, dB."""
    return float(peak_signal_noise_ratio(clip.float(), truth.float(), data_range=1.0))


def ssim(clip: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames."""
    return float(structural_similarity_index_measure(clip.float(), truth.float(), data_range=1.0))


def sharpness(clip: Tensor, truth: Tensor) -> float:
    """RMS gradient of the clip over that of the truth: 1 is as sharp, below is blurred, above is overdone."""

    def gradient(x: Tensor) -> Tensor:
        x = x.float()
        return (x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()).sqrt()

    return float(gradient(clip) / gradient(truth))
