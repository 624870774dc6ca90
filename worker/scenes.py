"""Where a clip cuts from one scene to the next, so that nothing is mixed across."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from torch import Tensor

from worker.video import iter_frames, nothing

SEEN_WIDTH = 320  # frames are looked at this wide: enough to tell scenes apart, and quick


@dataclass(frozen=True)
class Scan:
    """A clip seen from end to end. pts: timestamps of its frames, in ticks. scenes: which frames belong together."""

    pts: list[int]
    scenes: list[range]


def scan(path: Path, each: Callable[[], None] = nothing) -> Scan:
    """Read a clip and find its cuts, in memory for one frame. each: called after every frame.

    A cut is where a frame differs from the one before far more than its neighbours do (AdaptiveDetector of
    PySceneDetect), so that a pan, a flash, or a mask that is new in every frame is none.
    """
    detector = AdaptiveDetector(min_scene_len=1)
    pts: list[int] = []
    cuts: list[int] = []
    for frame, timestamp in iter_frames(path):
        found = detector.process_frame(FrameTimecode(len(pts), 25.0), _small(frame))
        cuts += [cut.frame_num for cut in found]
        pts.append(timestamp)
        each()
    ends = [0, *sorted({cut for cut in cuts if 0 < cut < len(pts)}), len(pts)]
    return Scan(pts, [range(start, stop) for start, stop in pairwise(ends)])


def _small(frame: Tensor) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """(3, H, W) in [0, 1] -> (h, w, 3), blue first."""
    height, width = frame.shape[1:]
    if width > SEEN_WIDTH:
        size = (max(1, round(height * SEEN_WIDTH / width)), SEEN_WIDTH)
        frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    pixels = (frame.clamp(0, 1) * 255).round().byte().flip(0).permute(1, 2, 0)
    return np.ascontiguousarray(pixels.numpy())
