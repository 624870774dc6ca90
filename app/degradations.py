"""What can happen to a clip: the degradations that a client may state, and the tasks that name some of them."""

import math
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_KERNEL = 129  # rows and columns of a kernel
KERNEL_SUM_TOLERANCE = 1e-3  # what is left of 1 by kernels that were printed


class Strict(BaseModel):
    """Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Downsample(Strict):
    """Frames shrunk by a whole factor.

    filter: `mean_pool`, each measured pixel is the mean of a factor x factor block; `bilinear` and `bicubic` as Pillow
    and torch do it, with antialiasing.
    """

    kind: Literal["downsample"]
    factor: int = Field(ge=2, le=16, examples=[4])
    filter: Literal["mean_pool", "bilinear", "bicubic"] = "mean_pool"


class GaussianBlur(Strict):
    """Every frame convolved with a Gaussian: round, of `sigma`, or of `sigma_x` and `sigma_y` along turned axes.

    Standard deviations in pixels of the restored clip; angle in degrees, counterclockwise.
    """

    kind: Literal["gaussian_blur"]
    sigma: float | None = Field(None, gt=0.1, le=20, examples=[3.0])
    sigma_x: float | None = Field(None, gt=0.1, le=20)
    sigma_y: float | None = Field(None, gt=0.1, le=20)
    angle: float = Field(0, ge=-180, le=180)

    @model_validator(mode="after")
    def _round_or_not(self) -> Self:
        if (self.sigma is None) == (self.sigma_x is None) or (self.sigma_x is None) != (self.sigma_y is None):
            raise ValueError("give either sigma, or sigma_x and sigma_y")
        if self.sigma is not None and self.angle:
            raise ValueError("a round blur has no angle")
        return self


class MotionBlur(Strict):
    """Every frame moved evenly along a straight line while it was exposed: `length` pixels of the restored clip.

    angle: of the line, in degrees, counterclockwise from the right.
    """

    kind: Literal["motion_blur"]
    length: float = Field(gt=1, le=128, examples=[15.0])
    angle: float = Field(0, ge=-180, le=180)


class DiscBlur(Strict):
    """Every frame out of focus: each point becomes an even disc; radius in pixels of the restored clip."""

    kind: Literal["disc_blur"]
    radius: float = Field(gt=0.5, le=64, examples=[4.0])


class KernelBlur(Strict):
    """Every frame convolved with a kernel: rows of weights with sum 1, or the uploaded `source.kernel_upload_id`.

    kernel[i][j] is the share of a pixel's light that falls i - height // 2 rows below and j - width // 2 columns to
    the right of it.
    """

    kind: Literal["kernel_blur"]
    kernel: list[list[float]] | None = Field(None, min_length=1, max_length=MAX_KERNEL, examples=[[[0.5, 0.5]]])

    @field_validator("kernel")
    @classmethod
    def _blurs(cls, kernel: list[list[float]] | None) -> list[list[float]] | None:
        if kernel is None:
            return None
        if len({len(row) for row in kernel}) != 1 or not 1 <= len(kernel[0]) <= MAX_KERNEL:
            raise ValueError(f"a kernel has rows of one length, of 1 to {MAX_KERNEL} weights")
        if not all(math.isfinite(weight) for row in kernel for weight in row):
            raise ValueError("a kernel has finite weights")
        total = math.fsum(weight for row in kernel for weight in row)
        if abs(total - 1) > KERNEL_SUM_TOLERANCE:
            raise ValueError(f"the weights of a kernel have the sum 1; these have {total:.6g}")
        return kernel


class TemporalAverage(Strict):
    """Each measured frame is the mean of `window` neighbouring frames.

    boundary: what lies beyond the ends: the first and last frame repeated, the clip going round, or nothing at all
    (`valid`: the restored clip then has window - 1 frames more than the measured one).
    """

    kind: Literal["temporal_average"]
    window: int = Field(ge=2, le=64, examples=[7])
    boundary: Literal["replicate", "circular", "valid"] = "replicate"


class TemporalDownsample(Strict):
    """Long exposure at a low frame rate: each measured frame is the mean of `factor` restored ones of its own."""

    kind: Literal["temporal_downsample"]
    factor: int = Field(ge=2, le=16, examples=[4])


class Mask(Strict):
    """Some pixels are lost: those where the clip's mask (`source.mask_upload_id`) is black.

    Where the job simulates, there need be no mask: then each pixel is known with probability `known` (0.5 if null), the
    same pixels in every frame or, with `moving`, others in each.
    """

    kind: Literal["mask"]
    known: float | None = Field(None, gt=0, lt=1)
    moving: bool = False


Blur = GaussianBlur | MotionBlur | DiscBlur | KernelBlur
Degradation = Annotated[Downsample | Blur | TemporalAverage | TemporalDownsample | Mask, Field(discriminator="kind")]


class Task(StrEnum):
    """The tasks of the VISION-XL paper, each a named list of degradations."""

    deblur = "deblur"
    deblur_plus = "deblur_plus"
    inpaint = "inpaint"
    inpaint_plus = "inpaint_plus"
    super_resolution_x4 = "super_resolution_x4"
    super_resolution_x4_plus = "super_resolution_x4_plus"
    temporal_deblur = "temporal_deblur"


def degradations_of(task: Task) -> list[Degradation]:
    """The degradations a task stands for; a `_plus` form averages seven frames first."""
    if task is Task.temporal_deblur:
        return [TemporalAverage(kind="temporal_average", window=13)]
    temporal: list[Degradation] = []
    if task.endswith("_plus"):
        temporal = [TemporalAverage(kind="temporal_average", window=7)]
    match task.removesuffix("_plus"):
        case "deblur":
            return [*temporal, GaussianBlur(kind="gaussian_blur", sigma=3.0)]
        case "inpaint":
            return [*temporal, Mask(kind="mask")]
        case _:
            return [*temporal, Downsample(kind="downsample", factor=4)]


def task_of(degradation: list[Degradation]) -> str:
    """The label under which metrics count a job: the task it resembles, whatever its numbers, else `custom`."""
    kinds = ["blur" if isinstance(d, Blur) else d.kind for d in degradation]
    plus = "_plus" if kinds[:1] == ["temporal_average"] and len(kinds) == 2 else ""
    match kinds[1:] if plus else kinds:
        case ["blur"]:
            return "deblur" + plus
        case ["mask"]:
            return "inpaint" + plus
        case ["downsample"]:
            return "super_resolution_x4" + plus
        case ["temporal_average"]:
            return "temporal_deblur"
        case _:
            return "custom"
