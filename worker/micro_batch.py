"""How many frames go through the prior at a time: as many as the memory that is free holds, which is measured."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal, NamedTuple

import torch

from worker.memory import free_memory, peak_of
from worker.solver.batches import MicroBatches
from worker.solver.stages import Prior

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


def choose(
    prior: Prior,
    device: torch.device,
    height: int,
    width: int,
    frames: int,
    wanted: int | None = None,
    budget: int | None = None,
) -> Choice:
    """The size for frames, or tiles of them, of so many pixels. wanted: what the settings say.

    Passes one grey frame through the prior, unless the size is set. Memory is measured after the part's own tensors
    were made, and what the loop will add to them is set aside. budget: bytes of a GPU that weights, clip and frames may
    take together; None: all.
    """
    if wanted is not None:
        return Choice(wanted, "setting")
    free, frame = _available(device, budget), 1
    for work in _passes(prior, device, height, width):
        work()  # so that its network is where it has to be, and libraries have chosen how to compute
        free = min(free, _available(device, budget))
        frame = max(frame, peak_of(work, device))
    fitting = max(1, (int(USED * free) - WHOLE_CLIPS * frames * 3 * height * width * 4) // frame)
    limits: list[tuple[int, Reason]] = [(fitting, "memory"), (MOST[device.type], "enough"), (frames, "frames")]
    size, reason = min(limits)
    evenly = ceil(frames / ceil(frames / size))  # 25 frames as 13 and 12 rather than 16 and 9
    return Choice(evenly, reason, free, frame)


def _available(device: torch.device, budget: int | None) -> int:
    free = free_memory(device)
    if budget is None or device.type != "cuda":
        return free
    return min(free, budget - torch.cuda.memory_allocated(device))


def _passes(prior: Prior, device: torch.device, height: int, width: int) -> list[Callable[[], object]]:
    """One frame through each network, both ways through the autoencoder."""
    x = torch.zeros(1, 3, height, width, device=device)
    with torch.inference_mode():
        z = prior.encode(x)
    passes = (lambda: prior.predict_noise(z, 1), lambda: prior.decode(z, (height, width)), lambda: prior.encode(x))
    return [torch.inference_mode()(work) for work in passes]


class Chosen(NamedTuple):
    """A choice, and what has become of it."""

    choice: Choice
    batches: MicroBatches

    @classmethod
    def again(cls, kept: dict[str, Any], around: Callable[[], AbstractContextManager[None]]) -> "Chosen":
        """As another made it, and as it was when it was kept: another size would change the last bits."""
        batches = MicroBatches(kept["size"], around)
        batches.halved = kept["halved"]
        return cls(Choice(**kept["choice"]), batches)

    def kept(self) -> dict[str, Any]:
        """For `again`, ready for JSON."""
        return {"choice": asdict(self.choice), "size": self.batches.size, "halved": self.batches.halved}

    def told(self) -> dict[str, Any]:
        """What the manifest says."""
        return {
            "size": self.batches.size,
            "reason": "out_of_memory" if self.batches.halved else self.choice.reason,
            "chosen": self.choice.size,
            "free_bytes": self.choice.free,
            "frame_bytes": self.choice.frame,
        }
