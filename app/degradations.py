"""What can happen to a clip: the degradations that a client may state, and the tasks that name some of them."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Downsample(Strict):
    """Each measured pixel is the mean of a factor x factor block."""

    kind: Literal["downsample"]
    factor: int = Field(ge=2, le=16, examples=[4])


class GaussianBlur(Strict):
    """Every frame convolved with an isotropic Gaussian; sigma in pixels of the restored clip."""

    kind: Literal["gaussian_blur"]
    sigma: float = Field(gt=0.1, le=20, examples=[3.0])


class TemporalAverage(Strict):
    """Each measured frame is the mean of `window` neighbouring frames.

    boundary: what lies beyond the ends: the first and last frame repeated, the clip going round, or nothing at all
    (`valid`: the restored clip then has window - 1 frames more than the measured one).
    """

    kind: Literal["temporal_average"]
    window: int = Field(ge=2, le=64, examples=[7])
    boundary: Literal["replicate", "circular", "valid"] = "replicate"


class Mask(Strict):
    """Some pixels are lost: those where the clip's mask (`source.mask_upload_id`) is black."""

    kind: Literal["mask"]


Degradation = Annotated[Downsample | GaussianBlur | TemporalAverage | Mask, Field(discriminator="kind")]


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
    kinds = [d.kind for d in degradation]
    plus = "_plus" if kinds[:1] == ["temporal_average"] and len(kinds) == 2 else ""
    match kinds[1:] if plus else kinds:
        case ["gaussian_blur"]:
            return "deblur" + plus
        case ["mask"]:
            return "inpaint" + plus
        case ["downsample"]:
            return "super_resolution_x4" + plus
        case ["temporal_average"]:
            return "temporal_deblur"
        case _:
            return "custom"
