"""The noise schedule of the prior, cut down to the timesteps that sampling visits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Timesteps t_1 > ... > t_S and the signal share abar_t at each (Ho et al. 2020, eq. 4)."""

    abar: Tensor  # (T,) float64, the prior's whole table
    timesteps: tuple[int, ...]

    @classmethod
    def leading(cls, abar: Tensor, steps: int, tau: float) -> "Schedule":
        """`steps` over the whole table, "leading" spacing with offset 1 (Lin et al. 2023), those up to tau kept.

        abar: (T,) in (0, 1), decreasing. tau: share of the table, in (0, 1]; ValueError where no timestep is left.
        With T = 1000, steps = 25 and tau = 0.30: 281 241 201 161 121 81 41 1.
        """
        total = len(abar)
        stride = total // steps
        kept = [t for t in range(1, 1 + steps * stride, stride) if t <= tau * (total - 1)]
        if not kept:
            raise ValueError(f"tau = {tau} leaves no timestep of {total}")
        return cls(abar.double(), tuple(reversed(kept)))

    def signal(self, t: int) -> float:
        """sqrt(abar_t)."""
        return float(self.abar[t].sqrt())

    def noise(self, t: int) -> float:
        """sqrt(1 - abar_t)."""
        return float((1 - self.abar[t]).sqrt())

    def next(self, index: int) -> int | None:
        """The timestep after the index-th one; None after the last."""
        return self.timesteps[index + 1] if index + 1 < len(self.timesteps) else None


def scaled_linear(total: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """SDXL's table: (total,) float64 values of abar, betas linear in their square root."""
    betas = torch.linspace(start**0.5, end**0.5, total, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, dim=0)
