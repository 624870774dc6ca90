"""How near the clean clip a result is, where a job simulates, by the measures of docs/quality.md."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.learned import Learned, frechet
from worker.measures import Motion, motion_between, ssim
from worker.vmaf import Vmaf

WINDOW = 16  # frames that FVD's network takes at a time


@dataclass
class _Side:
    """What is known of one of two clips that are held against the truth."""

    vmaf: Vmaf = field(default_factory=Vmaf)
    error: float = 0
    ssim: float = 0
    lpips: float = 0
    warp: float = 0
    frames: list[Tensor] = field(default_factory=list)  # of the window at hand
    features: list[Tensor] = field(default_factory=list)


class Comparison:
    """Takes the result, what the solver started from, and the truth, frame after frame; holds a few dozen of them.

    learned: the networks of LPIPS and FVD.
    """

    def __init__(self, learned: Learned) -> None:
        self._learned = learned
        self._sides = {"": _Side(), "_before": _Side()}
        self._truth = _Side()
        self._last: list[Tensor] = []  # restored, lifted, truth
        self._frames = self._pairs = 0

    def cut(self) -> None:
        """What comes next is another scene."""
        self._last = []
        for side in (*self._sides.values(), self._truth):
            side.frames.clear()

    def add(self, restored: Tensor, lifted: Tensor, truth: Tensor) -> None:
        """A frame of each, (3, H, W) in [0, 1]."""
        now = [x.detach().cpu().float().clone() for x in (restored, lifted, truth)]  # a view would hold all of its part
        if self._last and (motion := motion_between(self._last[-1], now[-1])):
            self._follow(motion, now)
        for side, frame in zip(self._sides.values(), now, strict=False):
            side.error += float((frame - now[-1]).square().mean())
            side.ssim += ssim(frame[None], now[-1][None])
            side.lpips += self._learned.lpips(frame[None], now[-1][None]) or 0
            side.vmaf.add(frame, now[-1])
        if self._learned.has_fvd:
            self._fill_windows(now)
        self._last = now
        self._frames += 1

    def values(self) -> dict[str, float]:
        """By the names that a job's `metrics` have, without those that could not be taken."""
        found: dict[str, float | None] = {}
        for name, side in self._sides.items():
            found[f"psnr{name}"] = -10 * math.log10(max(1e-12, side.error / self._frames))
            found[f"ssim{name}"] = side.ssim / self._frames
            found[f"vmaf{name}"] = side.vmaf.value()
            found[f"warp_error{name}"] = side.warp / self._pairs if self._pairs else None
            found[f"lpips{name}"] = side.lpips / self._frames if self._learned.has_lpips else None
            if len(side.features) > 1:
                found[f"fvd{name}"] = frechet(torch.cat(side.features), torch.cat(self._truth.features))
        found["warp_error_truth"] = self._truth.warp / self._pairs if self._pairs else None
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def _follow(self, motion: Motion, now: list[Tensor]) -> None:
        sides = (*self._sides.values(), self._truth)
        for side, before, after in zip(sides, self._last, now, strict=True):
            side.warp += motion.warp_error(before, after)
        self._pairs += 1

    def _fill_windows(self, now: list[Tensor]) -> None:
        for side, frame in zip((*self._sides.values(), self._truth), now, strict=True):
            side.frames.append(frame)
            if len(side.frames) == WINDOW:
                side.features.append(self._learned.features(torch.stack(side.frames)))
                side.frames.clear()
