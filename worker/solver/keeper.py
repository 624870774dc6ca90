"""How far the loop has come, for whoever has to go on from there."""

from typing import NamedTuple, Protocol

from torch import Tensor

from worker.solver.stages import Frames


class Reached(NamedTuple):
    """Latents of all frames, (T, C, h, w), after so many steps of the sampler, and the state of the generator then."""

    steps: int
    z: Tensor
    generator: Tensor


class Keeper(Protocol):
    """Keeps how far the loop has come, so that another run of it can go on from there and end with the same bits."""

    def reached(self) -> Reached | None:
        """Where to go on; None: from the start."""

    def keep(self, steps: int, z: Frames, frames: int, generator: Tensor) -> None:
        """Called after the inversion, with 0 steps, and after each step but the last. z is written over later."""


class Forgetful:
    """Keeps nothing."""

    def reached(self) -> Reached | None:
        return None

    def keep(self, steps: int, z: Frames, frames: int, generator: Tensor) -> None:
        pass


FORGETFUL = Forgetful()
