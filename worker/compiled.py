"""Networks compiled for the sizes of frames that are expected; any other runs as it is, and nobody waits for it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn

from worker.micro_batch import choose
from worker.solver.batches import MicroBatches
from worker.solver.prior import DiffusersPrior
from worker.solver.schedule import Schedule
from worker.solver.stages import Stages, nobody

log = structlog.get_logger(__name__)

MOST_SHAPES = 64  # of one network; torch stops at 8 unless told


class Compiled:
    """In place of a network's `forward`: compiled for the shapes of input it has met while `learning`."""

    def __init__(self, network: nn.Module, backend: str) -> None:
        self.plain = network.forward
        self._fast = torch.compile(network.forward, dynamic=False, backend=backend)
        self._shapes: set[torch.Size] = set()
        self.learning = True

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.learning:
            self._shapes.add(x.shape)
        return (self._fast if x.shape in self._shapes else self.plain)(x, *args, **kwargs)


def compile_for(
    prior: DiffusersPrior,
    sizes: Sequence[tuple[int, int]],
    frames: int,
    micro_batch: int | None,
    budget: int | None,
    *,
    cache: Path,
    each: Callable[[], None],
    backend: str = "inductor",
) -> None:
    """Compile UNet, encoder and decoder for frames of these sizes, (width, height), in clips of so many `frames`.

    micro_batch, budget: as a job will have them. cache: a directory, where the next start finds what was compiled.
    each: called after every size. Where compiling fails, as without a C++ compiler, all runs as before and the log says
    why.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.resolve() / "inductor")
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    networks: list[Any] = [prior.unet, prior.vae.encoder, prior.vae.decoder]
    for network in networks:
        network.forward = Compiled(network, backend)
    try:
        for width, height in sizes:
            _pass(prior, width, height, frames, micro_batch, budget)
            log.info("compiled", width=width, height=height)
            each()
    except RuntimeError as error:  # which Dynamo's and Inductor's own are
        log.warning("not compiled", reason=str(error).splitlines()[0])
        for network in networks:
            network.forward = network.forward.plain
        return
    for network in networks:
        network.forward.learning = False


@torch.inference_mode()
def _pass(
    prior: DiffusersPrior, width: int, height: int, frames: int, micro_batch: int | None, budget: int | None
) -> None:
    """A grey clip through all networks, in the micro-batches that a job would take."""
    size = choose(prior, prior.device, height, width, frames, micro_batch, budget).size
    x = torch.zeros(frames, 3, height, width, device=prior.device)
    stages = Stages(prior, Schedule(prior.abar, (1,)), nobody, MicroBatches(size))
    z = stages.encoded(x)
    stages.denoise(z, torch.empty_like(z), frames, 1)
    stages.decode(z, x)
