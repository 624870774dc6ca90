"""A prior that is shown frames half as large each way: a quarter of the work, for previews."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from worker.solver.stages import Prior


def half(height: int, width: int) -> tuple[int, int]:
    """Half the size, rounded up."""
    return -(-height // 2), -(-width // 2)


@dataclass(frozen=True)
class Halved:
    """What it returns has half the detail; the data step, on whole frames, brings back what the measurement holds."""

    prior: Prior

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents of frames half as large."""
        return self.prior.encode(interpolate(x, half(*x.shape[-2:]), mode="bicubic", antialias=True))

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents -> (B, 3, H, W), size = (H, W)."""
        return interpolate(self.prior.decode(z, half(*size)), size, mode="bicubic")

    def predict_noise(self, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """As the prior does."""
        return self.prior.predict_noise(z, t)
