"""How near the clean clip a result is, where a job simulates, by the measures of docs/quality.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.learned import Learned, frechet
from worker.measures import motion_between, ssim
from worker.vmaf import Vmaf

WINDOW = 16  # frames that FVD's network takes at a time


@dataclass
class _Side:
    """What is known of one of the clips that are held against the truth, or of the truth itself."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("error", "ssim", "lpips", "warp"), 0.0))
    vmaf: Vmaf = field(default_factory=Vmaf)
    frames: list[Tensor] = field(default_factory=list)  # of the window at hand
    features: list[Tensor] = field(default_factory=list)


class Comparison:
    """Takes the result, what the solver started from, and the truth, frame after frame; holds a few dozen of them.

    Stretches of a clip may each have a comparison of their own: what one says of itself (`told`) another adds to its
    own. learned: the networks of LPIPS and FVD.
    """

    def __init__(self, learned: Learned) -> None:
        self._learned = learned
        self._compared, self._truth = {"": _Side(), "_before": _Side()}, _Side()
        self._sides = self._compared | {"_truth": self._truth}
        self._last: list[Tensor] = []  # restored, lifted, truth
        self._frames = self._pairs = 0

    def cut(self) -> None:
        """What comes next is another scene."""
        self._last = []
        for side in self._sides.values():
            side.frames.clear()

    def add(self, restored: Tensor, lifted: Tensor, truth: Tensor) -> None:
        """A frame of each, (3, H, W) in [0, 1]."""
        now = [x.detach().cpu().float().clone() for x in (restored, lifted, truth)]  # a view would hold all of its part
        self._follow(now)
        for side, frame in zip(self._compared.values(), now, strict=False):
            side.sums["error"] += float((frame - now[-1]).square().mean())
            side.sums["ssim"] += ssim(frame[None], now[-1][None])
            side.sums["lpips"] += self._learned.lpips(frame[None], now[-1][None]) or 0
            side.vmaf.add(frame, now[-1])
        if self._learned.has_fvd:
            self._fill_windows(now)
        self._last = now
        self._frames += 1

    def told(self) -> dict[str, Any]:
        """All there is to add to another comparison, ready for JSON."""
        sides = {
            name: {"sums": side.sums, "vmaf": side.vmaf.values(), "features": [x.tolist() for x in side.features]}
            for name, side in self._sides.items()
        }
        return {"sides": sides, "frames": self._frames, "pairs": self._pairs}

    def add_told(self, told: dict[str, Any], first: Sequence[Tensor], last: Sequence[Tensor]) -> None:
        """What another comparison told of frames that come next. first, last: of them, of each of the three clips."""
        self._follow([x.float() for x in first])
        for name, side in self._sides.items():
            side.frames.clear()
            other = told["sides"][name]
            side.sums = {measure: value + other["sums"][measure] for measure, value in side.sums.items()}
            side.vmaf.add_values(other["vmaf"])
            side.features += [torch.tensor(x, dtype=torch.float64) for x in other["features"]]
        self._frames += told["frames"]
        self._pairs += told["pairs"]
        self._last = [x.float() for x in last]

    def values(self) -> dict[str, float]:
        """By the names that a job's `metrics` have, without those that could not be taken."""
        warp_errors = {f"warp_error{name}": side.sums["warp"] for name, side in self._sides.items()}
        found: dict[str, float | None] = {
            n: error / self._pairs if self._pairs else None for n, error in warp_errors.items()
        }
        for name, side in self._compared.items():
            found[f"psnr{name}"] = -10 * math.log10(max(1e-12, side.sums["error"] / self._frames))
            found[f"ssim{name}"] = side.sums["ssim"] / self._frames
            found[f"vmaf{name}"] = side.vmaf.value()
            found[f"lpips{name}"] = side.sums["lpips"] / self._frames if self._learned.has_lpips else None
            if len(side.features) > 1:
                found[f"fvd{name}"] = frechet(torch.cat(side.features), torch.cat(self._truth.features))
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def _follow(self, now: list[Tensor]) -> None:
        """Along the motion of the truth from the last frame to this one."""
        if self._last and (motion := motion_between(self._last[-1], now[-1])):
            for side, before, after in zip(self._sides.values(), self._last, now, strict=True):
                side.sums["warp"] += motion.warp_error(before, after)
            self._pairs += 1

    def _fill_windows(self, now: list[Tensor]) -> None:
        for side, frame in zip(self._sides.values(), now, strict=True):
            side.frames.append(frame)
            if len(side.frames) == WINDOW:
                side.features.append(self._learned.features(torch.stack(side.frames)))
                side.frames.clear()
