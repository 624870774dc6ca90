"""What came of a clip: files, and all that is told of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.estimate import Estimate


@dataclass
class Outcome:
    """What came of a clip. noise_sigma and the residuals are RMS over all measured pixels, in [0, 1].

    warnings: for whoever asked for it. compared: with the clean clip, where it was given. settings: of the solver.
    scenes: for each, its measured frames, its noise, and in how many parts it was solved. estimated: what had happened
    to it, where nobody said. per_frame: as FrameReport has it.
    """

    files: dict[str, Path]
    warnings: list[str]
    width: int = 0
    height: int = 0
    frames: int = 0
    noise_sigma: float = 0.0
    residual: float = 0.0
    residual_before: float = 0.0
    compared: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    estimated: Estimate | None = None
    per_frame: dict[str, list[Any]] = field(default_factory=dict)
