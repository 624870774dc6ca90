"""How noisy a measurement is, when nobody says."""

import torch
import torch.nn.functional as F
from torch import Tensor

QUANTISATION = 0.29 / 255  # of rounding to 8 bits: 1 / sqrt(12) levels
COMPRESSION = 1.0 / 255  # left by H.264 at visually lossless settings
SAMPLES = 1 << 20


def estimate_noise(y: Tensor, known: Tensor | None = None, floor: float = COMPRESSION) -> float:
    """Standard deviation of y's noise, on the scale of y in [0, 1]; never under `floor`.

    The double Laplacian of Immerkaer (1996) removes all that is locally planar. Of its absolute values the first decile
    is taken, not the median: texture widens the upper ones, and a first decile is still set by the flat parts.

    y: (T, 3, H, W). known: (1 or T, 1, H, W) of 0 and 1, or None; only pixels with known surroundings count.
    """
    if min(y.shape[-2:]) < 3:
        return floor
    kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], device=y.device).view(1, 1, 3, 3)
    response = F.conv2d(y.float().flatten(0, 1)[:, None], kernel).abs() / 6
    if known is not None:
        whole = -F.max_pool2d(-known.float(), 3, stride=1)
        response = response[(whole > 0).expand(len(y), 3, -1, -1).flatten(0, 1)[:, None]]
    values = response.flatten()
    if len(values) < 1000:
        return floor
    values = values[:: max(1, len(values) // SAMPLES)]
    decile = float(values.kthvalue(max(1, len(values) // 10)).values)
    return max(floor, decile / 0.12566)  # P(|n| < 0.12566) = 0.1 for a standard normal n
