"""What is to be done to a clip, whoever asks: the service's clients or `vxl restore`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from app.containers import BesideKind
from app.degradations import Degradation, KernelBlur, Mask, Strict, Task, degradations_of

NOISE = "standard deviation for pixels in [0, 1]; null: estimated, or where the job simulates, none but 8 bits"

BLUR = "`estimate`: blur of frames and mean over time are found from the clip, or the job is refused as not identified"


Tier = Literal["exact", "fast", "draft"]
TIER = "exact; fast: about half the steps; draft: one step, on frames half as large, for previews"


class SolverSettings(Strict):
    """How the inverse problem is solved; what is left null follows the preset and the task (docs/algorithm.md).

    preset: `published` reproduces the solver as its authors published it, shortcomings included.
    """

    preset: Literal["default", "published"] = "default"
    steps: int = Field(25, ge=2, le=1000, description="over the whole schedule; tau keeps the last of them")
    tau: float | None = Field(None, ge=0.002, le=0.5, description="where sampling starts, as a share of the schedule")
    eta: float | None = Field(None, ge=0, le=1, description="share of fresh noise when renoising")
    lowpass: float | None = Field(None, ge=0, le=4, description="low-pass width is lowpass * sqrt(1 - abar) pixels")
    init: Literal["every_frame", "first_frame", "random"] | None = Field(None, description="what is inverted at first")
    final: Literal["data", "prior"] | None = Field(None, description="data: fitted to the measurement once more")
    prompt: str = Field("", max_length=1000)
    guidance: float = Field(0.6, ge=0, le=1, description="CFG++ weight; counts only with a prompt")
    seed: int = Field(42, ge=0, lt=2**63)


class OutputSettings(Strict):
    """The file that comes back."""

    container: Literal["mp4"] = "mp4"
    codec: Literal["h264"] = "h264"
    crf: int = Field(12, ge=0, le=40, description="x264 constant rate factor: lower is better and larger")
    audio: Literal["copy", "none"] = "copy"


class Restoration(Strict):
    """What happened to a clip, and how it is to be undone.

    The first is said as `task`, as a list `degradation` in its order, or not at all: `"blur": "estimate"` has it found.
    """

    task: Task | None = None
    degradation: list[Degradation] = Field(default_factory=list, max_length=8)
    blur: Literal["estimate"] | None = Field(None, description=BLUR)
    noise_sigma: float | None = Field(None, ge=0, le=0.5, description=NOISE)
    simulate: bool = Field(False, description="the clip is clean: degrade it first, and report how near the result is")
    tier: Tier = Field("exact", description=TIER)
    solver: SolverSettings = Field(default_factory=SolverSettings)
    output: OutputSettings = Field(default_factory=OutputSettings)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if [self.task is not None, bool(self.degradation), self.blur is not None].count(True) != 1:
            raise ValueError("give either task or a non-empty degradation, or let blur be estimated")
        return self

    def degradations(self) -> list[Degradation]:
        """What happened to the clip, in order; nothing where it is to be estimated."""
        return degradations_of(self.task) if self.task else self.degradation

    def takes(self, kind: BesideKind) -> bool:
        """Whether some degradation takes a mask, or a kernel, from beside the clip."""
        wanted = {
            "mask": any(isinstance(step, Mask) for step in self.degradations()),
            "kernel": any(isinstance(step, KernelBlur) and step.kernel is None for step in self.degradations()),
        }
        return wanted[kind]

    def field(self, index: int, part: str = "") -> str:
        """How the client named the degradation of that number, or a part of it."""
        return "task" if self.task else f"degradation.{index}.{part}".rstrip(".")
