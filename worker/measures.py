"""Measures of quality, for clips (T, 3, H, W) in [0, 1]."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(clip: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio over the whole clip, dB."""
    return float(peak_signal_noise_ratio(clip.float(), truth.float(), data_range=1.0))


def ssim(clip: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames; taken frame by frame, which saves memory."""
    pairs = zip(clip, truth, strict=True)
    values = [structural_similarity_index_measure(a[None].float(), b[None].float(), data_range=1.0) for a, b in pairs]
    return sum(map(float, values)) / len(values)


def sharpness(clip: Tensor, truth: Tensor) -> float:
    """RMS gradient of the clip over that of the truth: 1 is as sharp, below is blurred, above is overdone."""

    def gradient(x: Tensor) -> Tensor:
        x = x.float()
        return (x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()).sqrt()

    return float(gradient(clip) / gradient(truth))


def compared(restored: Tensor, lifted: Tensor, truth: Tensor) -> dict[str, float]:
    """How near the clean clip the result is, and how near what the solver started from was."""
    truth = truth.to(restored.device)
    return {
        "psnr": psnr(restored, truth),
        "psnr_before": psnr(lifted, truth),
        "ssim": ssim(restored, truth),
        "ssim_before": ssim(lifted, truth),
    }
