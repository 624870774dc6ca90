"""LPIPS and FVD, where their networks are at hand: as TorchScript files, since neither can come with this project.

--lpips FILE    called with two batches (B, 3, H, W) in [-1, 1], gives their distances (Zhang et al. 2018)
--fvd FILE      called with clips (B, 3, T, H, W) in [-1, 1], gives features (B, D) (Unterthiner et al. 2019)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Learned:
    """The two measures; a measure without its file is None."""

    def __init__(self, lpips: Path | None, fvd: Path | None) -> None:
        self._lpips = _script(lpips)
        self._fvd = _script(fvd)

    @torch.inference_mode()
    def lpips(self, clip: Tensor, truth: Tensor) -> float | None:
        """Mean over frames; clips (T, 3, H, W) in [0, 1]."""
        if self._lpips is None:
            return None
        return float(self._lpips(2 * clip - 1, 2 * truth - 1).mean())

    @torch.inference_mode()
    def fvd(self, clips: Sequence[Tensor], truths: Sequence[Tensor]) -> float | None:
        """Of all clips together; of one it says nothing, so two are the least."""
        if self._fvd is None or len(clips) < 2:
            return None
        one, other = (
            torch.cat([self._fvd(2 * x.transpose(0, 1)[None] - 1) for x in group]) for group in (clips, truths)
        )
        return frechet(one.double(), other.double())


def _script(path: Path | None) -> Any:
    return torch.jit.load(str(path)) if path else None  # type: ignore[no-untyped-call]


def frechet(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two sets of features (N, D), as if normal: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))."""
    means = (one.mean(0) - other.mean(0)).square().sum()
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, other))  # C = a^T a
    # tr (C1 C2)^(1/2) is the sum of the singular values of a b^T, which are those of the triangles of both.
    cross = torch.linalg.svdvals(torch.linalg.qr(a).R @ torch.linalg.qr(b).R.T).sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * cross)
