"""What happened to a clip that does not say: read off a stretch of it, in the words a client would have used."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from app import degradations as stated
from app.degradations import Degradation
from worker.scenes import Scan
from worker.solver.blind import identify
from worker.solver.blind_space import Shape
from worker.video import iter_frames, nothing

FRAMES = 50  # of the longest scene: enough to tell a mean of 16
SIDE = 512  # of its middle, pixels
BRIGHTNESS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Estimate:
    """What is likely to have happened, in order, and how likely it is."""

    degradation: list[Degradation]
    confidence: float


def estimate(source: Path, seen: Scan, each: Callable[[], None] = nothing) -> Estimate:
    """Look at the middle of a clip's longest scene. Raises NotIdentified where that does not tell.

    each: called after every frame that is read.
    """
    scene = max(seen.scenes, key=len)
    frames = []
    for frame, _ in islice(iter_frames(source), scene.start, min(scene.stop, scene.start + FRAMES)):
        each()
        frames.append(_middle(torch.tensordot(torch.tensor(BRIGHTNESS), frame.float(), 1)))
    found = identify(torch.stack(frames))
    steps: list[Degradation] = []
    if found.window > 1:
        steps.append(stated.TemporalAverage(kind="temporal_average", window=found.window))
    if found.blur:
        steps.append(_named(found.blur))
        if found.blur.softness:
            steps.append(stated.GaussianBlur(kind="gaussian_blur", sigma=round(found.blur.softness, 2)))
    if found.kernel is not None:
        rows = [[round(weight, 6) for weight in row] for row in found.kernel.tolist()]
        steps.append(stated.KernelBlur(kind="kernel_blur", kernel=rows))
    return Estimate(steps, round(found.confidence, 3))


def _middle(frame: Tensor) -> Tensor:
    """(H, W) -> at most SIDE each way, even."""
    for axis, size in enumerate(frame.shape):
        kept = min(SIDE, size // 2 * 2)
        frame = frame.narrow(axis, (size - kept) // 2, kept)
    return frame


def _named(shape: Shape) -> Degradation:
    match shape.kind:
        case "gaussian":
            return stated.GaussianBlur(kind="gaussian_blur", sigma=round(shape.size, 2))
        case "disc":
            return stated.DiscBlur(kind="disc_blur", radius=round(shape.size, 2))
        case "motion":
            angle = (shape.angle + 90) % 180 - 90
            return stated.MotionBlur(kind="motion_blur", length=round(shape.size, 2), angle=round(angle, 1))
