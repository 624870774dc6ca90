"""Measures of quality, for clips (T, 3, H, W) in [0, 1]."""

import math

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


class Comparison:
    """How near the clean clip a result is, and how near what the solver started from was; frame after frame."""

    def __init__(self) -> None:
        self._error = {"": 0.0, "_before": 0.0}
        self._ssim = {"": 0.0, "_before": 0.0}
        self._frames = 0

    def add(self, restored: Tensor, lifted: Tensor, truth: Tensor) -> None:
        """A frame of each, (3, H, W) in [0, 1]."""
        truth = truth.to(restored.device).float()
        for name, frame in (("", restored), ("_before", lifted)):
            self._error[name] += float((frame - truth).square().mean())
            self._ssim[name] += ssim(frame[None], truth[None])
        self._frames += 1

    def values(self) -> dict[str, float]:
        """`psnr` (dB, of the whole clip) and `ssim` (mean over frames), each also with `_before`."""
        errors = {f"psnr{name}": -10 * math.log10(max(1e-12, e / self._frames)) for name, e in self._error.items()}
        return errors | {f"ssim{name}": s / self._frames for name, s in self._ssim.items()}
