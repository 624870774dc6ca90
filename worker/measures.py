"""Measures of quality, for clips (T, 3, H, W) in [0, 1]."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

cv2.setNumThreads(1)  # motion is looked for in threads beside the solver; in two it takes a third more work
LEAST_FLOW = 16  # pixels a side: less than the flow's patches need


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


def warp_error(before: Tensor, after: Tensor, guide: tuple[Tensor, Tensor]) -> float:
    """How far a frame is from the next one moved back onto it (Lai et al. 2018): RMS in [0, 1] over what both show.

    before, after: (3, H, W), consecutive. guide: the same two frames of the clip whose motion is taken, such as the
    truth. NaN where neither has a pixel that the other shows too, as across a cut, and for frames too small to have
    motion.
    """
    motion = motion_between(*guide)
    return math.nan if motion is None else motion.warp_error(before, after)


@dataclass(frozen=True)
class Motion:
    """Where the pixels of a frame are in the next, and which of them are there.

    flow: (H, W, 2), pixels. seen: (H, W).
    """

    flow: NDArray[np.float32]
    seen: NDArray[np.bool_]

    def warp_error(self, before: Tensor, after: Tensor) -> float:
        """Of two frames (3, H, W) that move like this."""
        one, two = (np.ascontiguousarray(x.float().permute(1, 2, 0).numpy()) for x in (before.cpu(), after.cpu()))
        return float(np.sqrt(np.square(one - _moved(two, self.flow))[self.seen].mean()))


def motion_between(before: Tensor, after: Tensor) -> Motion | None:
    """DIS optical flow (Kroeger et al. 2016) of two frames (3, H, W) in [0, 1].

    A pixel counts where flow there and flow back agree (Sundaram et al. 2010, eq. 5). None where none does.
    """
    there, back = _grey(before), _grey(after)
    if min(there.shape) < LEAST_FLOW:
        return None
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth = dis.calc(there, back, None)  # type: ignore[call-overload]  # its stub wants a flow to fill
    home = _moved(dis.calc(back, there, None), forth)  # type: ignore[call-overload]
    seen = _squared(forth + home) < 0.01 * (_squared(forth) + _squared(home)) + 0.5
    return Motion(forth, seen) if seen.any() else None


def warp_errors(clip: Tensor, guide: Tensor) -> float:
    """Mean of `warp_error` over the pairs of a clip; NaN where no pair has one."""
    values = [warp_error(clip[n], clip[n + 1], (guide[n], guide[n + 1])) for n in range(len(clip) - 1)]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _grey(frame: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray((frame.float().mean(0).clamp(0, 1) * 255).round().byte().cpu().numpy())


def _squared(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W): the square of how long each of (H, W, 2) is; summed up by numpy it takes thirty times as long."""
    squared: NDArray[np.float32] = flow[..., 0] ** 2 + flow[..., 1] ** 2
    return squared


def _moved(picture: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture (H, W, C) fetched from where the flow (H, W, 2) leads; NaN-free, edges repeated."""
    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    moved = cv2.remap(picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.float32)
