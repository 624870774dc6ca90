"""LPIPS and FVD, where their networks are at hand: as TorchScript files, since neither can come with this project.

VXL_LPIPS    called with two batches (B, 3, H, W) in [-1, 1], gives their distances (Zhang et al. 2018)
VXL_FVD      called with clips (B, 3, T, H, W) in [-1, 1], gives features (B, D) (Unterthiner et al. 2019)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Learned:
    """The two measures, on a device. Raises ValueError where a file is no TorchScript."""

    def __init__(self, lpips: Path | None = None, fvd: Path | None = None, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self._lpips = _script(lpips, self._device)
        self._fvd = _script(fvd, self._device)

    @property
    def has_lpips(self) -> bool:
        return self._lpips is not None

    @property
    def has_fvd(self) -> bool:
        return self._fvd is not None

    @torch.inference_mode()
    def lpips(self, clip: Tensor, truth: Tensor) -> float | None:
        """Mean over frames; clips (T, 3, H, W) in [0, 1]. None without its network."""
        if self._lpips is None:
            return None
        one, other = ((2 * x - 1).to(self._device) for x in (clip, truth))
        return float(self._lpips(one, other).mean())

    @torch.inference_mode()
    def features(self, clip: Tensor) -> Tensor:
        """(1, D) float64: what FVD compares, of a clip (T, 3, H, W) in [0, 1]. Only with its network."""
        found: Tensor = self._fvd((2 * clip - 1).transpose(0, 1)[None].to(self._device))
        return found.double().cpu()

    def fvd(self, clips: Sequence[Tensor], truths: Sequence[Tensor]) -> float | None:
        """Of all clips together; of one it says nothing, so two are the least. None without its network."""
        if self._fvd is None or len(clips) < 2:
            return None
        one, other = (torch.cat([self.features(x) for x in group]) for group in (clips, truths))
        return frechet(one, other)


def _script(path: Path | None, device: torch.device) -> Any:
    if path is None:
        return None
    try:
        return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript: {str(error).splitlines()[0]}") from error


def frechet(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two sets of features (N, D), as if normal: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))."""
    means = (one.mean(0) - other.mean(0)).square().sum()
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, other))  # C = a^T a
    # tr (C1 C2)^(1/2) is the sum of the singular values of a b^T, which are those of the triangles of both.
    cross = torch.linalg.svdvals(torch.linalg.qr(a).R @ torch.linalg.qr(b).R.T).sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * cross)
