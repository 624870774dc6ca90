"""Does what is asked fit the clip? Answered before a job is queued, and before `vxl restore` loads its prior."""

from collections.abc import Collection
from typing import NamedTuple

from app.containers import BesideKind
from app.degradations import Degradation, Downsample, GaussianBlur, Mask, TemporalAverage, TemporalDownsample
from app.restoration import Restoration
from app.settings import Settings

PUBLISHED_MARGIN = 30  # what its 61 taps reflect at each edge


class Misfit(ValueError):
    """What is asked cannot be done to this clip. field: at fault; `mask` or `kernel` for what comes beside the clip."""

    def __init__(self, field: str, detail: str, code: str = "invalid_parameter") -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail
        self.code = code


class Extent(NamedTuple):
    """How large a clip or a mask is."""

    width: int
    height: int
    frames: int


def check_given(wanted: Restoration, given: Collection[BesideKind]) -> None:
    """Raises Misfit where a mask or kernel is missing or not wanted, or settings exclude one another."""
    if wanted.blur and wanted.simulate:
        raise Misfit("blur", "there is nothing to estimate where the job simulates")
    if wanted.blur and wanted.solver.preset == "published":
        raise Misfit("blur", "the published solver takes only what is stated")
    if wanted.tier != "exact" and wanted.solver.preset == "published":
        raise Misfit("tier", "the published solver has no tier but exact")
    drawn = wanted.simulate and "mask" not in given  # a random mask
    for index, step in enumerate(wanted.degradations()):
        if isinstance(step, Mask) and not drawn and (step.known is not None or step.moving):
            raise Misfit(wanted.field(index), "a random mask is for simulate, where no mask is given")
    kinds: tuple[BesideKind, ...] = ("mask", "kernel")
    for kind in kinds:
        if wanted.takes(kind) and kind not in given and not (kind == "mask" and drawn):
            raise Misfit(kind, f"a degradation takes a {kind}; none is given")
        if kind in given and not wanted.takes(kind):
            raise Misfit(kind, f"no degradation takes a {kind}")


def check_fit(wanted: Restoration, clip: Extent, mask: Extent | None, settings: Settings) -> None:
    """Walk from the clip to its other end; raises a Misfit at the first step that cannot be.

    The clip is the measured one, and the walk leads back to the restored one; where the job simulates it is clean, and
    the walk leads to the measured one.
    """
    if wanted.simulate:
        _check_degradable(wanted, clip, mask)
        width, height, frames = clip.width, clip.height, clip.frames
    else:
        width, height, frames = _restored_size(wanted, clip, mask)
    field = "task" if wanted.task else "degradation"
    if width * height > settings.max_pixels:
        raise Misfit(field, f"the restored frame, {width}x{height}, would exceed {settings.max_pixels} pixels")
    if frames > settings.max_frames:
        raise Misfit(field, f"the restored clip would have {frames} frames; {settings.max_frames} are allowed")
    if wanted.solver.preset == "published":
        _check_published(wanted.degradations(), width, height)


def _restored_size(wanted: Restoration, clip: Extent, mask: Extent | None) -> tuple[int, int, int]:
    """Width, height and frames of the restored clip."""
    width, height, frames = clip.width, clip.height, clip.frames
    for index, step in reversed(list(enumerate(wanted.degradations()))):
        match step:
            case Downsample():
                width, height = width * step.factor, height * step.factor
            case TemporalDownsample():
                frames *= step.factor
            case TemporalAverage(boundary="valid"):
                frames += step.window - 1
            case TemporalAverage() if step.window > frames:
                raise Misfit(wanted.field(index, "window"), _too_long(step.window, frames))
            case Mask() if mask is not None:
                _check_mask(mask, width, height, frames)
            case _:
                pass
    return width, height, frames


def _check_degradable(wanted: Restoration, clip: Extent, mask: Extent | None) -> None:
    width, height, frames = clip.width, clip.height, clip.frames
    stated = wanted.degradations()
    if mask is None and sum(isinstance(step, Mask) for step in stated) > 1:
        raise Misfit("degradation", "one random mask is drawn for a job; the list has several")
    for index, step in enumerate(stated):
        match step:
            case Downsample(factor=factor):
                if width % factor or height % factor:
                    raise Misfit(wanted.field(index, "factor"), f"frames of {width}x{height} do not divide by {factor}")
                width, height = width // factor, height // factor
            case TemporalDownsample(factor=factor):
                if frames % factor:
                    raise Misfit(wanted.field(index, "factor"), f"{frames} frames do not divide by {factor}")
                frames //= factor
            case TemporalAverage(window=window):
                if window > frames:
                    raise Misfit(wanted.field(index, "window"), _too_long(window, frames))
                frames -= window - 1 if step.boundary == "valid" else 0
            case Mask() if mask is not None:
                _check_mask(mask, width, height, frames)
            case _:
                pass


def _too_long(window: int, frames: int) -> str:
    return f"the window of {window} is longer than the clip of {frames} frames"


def _check_published(stated: list[Degradation], width: int, height: int) -> None:
    for step in stated:
        match step:
            case TemporalAverage() | Downsample(filter="mean_pool"):
                pass
            case GaussianBlur() if step.sigma is not None:
                pass
            case _:
                raise Misfit("solver.preset", f"the published solver knows no {step.kind} such as this")
    if min(width, height) <= PUBLISHED_MARGIN:
        detail = f"the published solver needs frames of more than {PUBLISHED_MARGIN} pixels a side"
        raise Misfit("solver.preset", f"{detail}; the restored ones have {width}x{height}")


def _check_mask(mask: Extent, width: int, height: int, frames: int) -> None:
    detail = None
    if (mask.width, mask.height) != (width, height):
        detail = f"The mask is {mask.width}x{mask.height}; it must be {width}x{height}."
    elif mask.frames not in (1, frames):
        detail = f"The mask has {mask.frames} frames; it must have 1 or {frames}."
    if detail:
        raise Misfit("mask", detail, "mask_mismatch")
