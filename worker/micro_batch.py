"""How many frames go through the prior at a time: as many as the memory that is free holds, which is measured."""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import torch

from worker.memory import free_memory, peak_of
from worker.solver.batches import MicroBatches
from worker.solver.restore import Prior

Reason = Literal["setting", "memory", "enough", "frames"]

MOST = {"cuda": 16, "cpu": 4}  # frames beyond which nothing is gained (docs/performance.md)
USED = 0.9  # of the memory that is free: the rest goes in pieces
WHOLE_CLIPS = 8  # float32 clips of this part that come besides: estimate, latents' noise, spectra of the data step


@dataclass(frozen=True)
class Choice:
    """A size, and why: it was set; memory holds no more; more gains nothing; or there are no more frames.

    free, frame: bytes that were free, and that a frame in the prior takes; None where the size was set.
    """

    size: int
    reason: Reason
    free: int | None = None
    frame: int | None = None


def choose(prior: Prior, device: torch.device, height: int, width: int, frames: int, wanted: int | None) -> Choice:
    """The size for frames, or tiles of them, of so many pixels. wanted: what the settings say.

    Passes one grey frame through the prior, unless the size is set. Memory is measured after the part's own tensors
    were made, and what the loop will add to them is set aside.
    """
    if wanted is not None:
        return Choice(wanted, "setting")
    before = free_memory(device)
    frame = max(1, peak_of(lambda: _pass(prior, device, height, width), device))
    free = int(USED * before) - WHOLE_CLIPS * frames * 3 * height * width * 4
    fitting = max(1, free // frame)
    limits: list[tuple[int, Reason]] = [(fitting, "memory"), (MOST[device.type], "enough"), (frames, "frames")]
    size, reason = min(limits)
    evenly = ceil(frames / ceil(frames / size))  # 25 frames as 13 and 12 rather than 16 and 9
    return Choice(evenly, reason, before, frame)


@torch.inference_mode()
def _pass(prior: Prior, device: torch.device, height: int, width: int) -> None:
    z = prior.encode(torch.zeros(1, 3, height, width, device=device))
    prior.predict_noise(z, 1)
    prior.decode(z, (height, width))


def told(choice: Choice, batches: MicroBatches) -> dict[str, Any]:
    """What the manifest says."""
    return {
        "size": batches.size,
        "reason": "out_of_memory" if batches.halved else choice.reason,
        "chosen": choice.size,
        "free_bytes": choice.free,
        "frame_bytes": choice.frame,
    }
