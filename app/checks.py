"""Does the request fit the clip? Asked before a job is queued, not once a GPU has it."""

from app.containers import BesideKind, UploadKind
from app.contract import JobRequest, MediaInfo, Upload
from app.degradations import (
    Degradation,
    Downsample,
    GaussianBlur,
    KernelBlur,
    Mask,
    TemporalAverage,
    TemporalDownsample,
)
from app.errors import FieldError, Problem, invalid
from app.records import Records
from app.settings import Settings

PUBLISHED_MARGIN = 30  # what its 61 taps reflect at each edge


def find_uploads(request: JobRequest, records: Records) -> dict[UploadKind, Upload]:
    """The clip and what goes with it; raises a Problem where one is missing, or in another's place, or not wanted."""
    stated, given = request.degradations(), request.source.beside()
    wanted: dict[BesideKind, bool] = {
        "mask": any(isinstance(step, Mask) for step in stated),
        "kernel": any(isinstance(step, KernelBlur) and step.kernel is None for step in stated),
    }
    found: dict[UploadKind, Upload] = {"clip": _find(request.source.upload_id, "clip", "source.upload_id", records)}
    for kind, needed in wanted.items():
        field = f"source.{kind}_upload_id"
        if needed and kind not in given:
            raise invalid(field, f"a degradation takes a {kind}; none is given")
        if kind in given and not needed:
            raise invalid(field, f"no degradation takes a {kind}")
        if kind in given:
            found[kind] = _find(given[kind], kind, field, records)
    return found


def check_fit(request: JobRequest, clip: MediaInfo, mask: MediaInfo | None, settings: Settings) -> None:
    """Walk from the measured clip back to the restored one; raises a Problem at the first step that cannot be."""
    width, height, frames = clip.width, clip.height, clip.frames
    for index, step in reversed(list(enumerate(request.degradations()))):
        field = "task" if request.task else f"degradation.{index}"
        match step:
            case Downsample():
                width, height = width * step.factor, height * step.factor
            case TemporalDownsample():
                frames *= step.factor
            case TemporalAverage(boundary="valid"):
                frames += step.window - 1
            case TemporalAverage() if step.window > frames:
                field = field if request.task else f"{field}.window"
                raise invalid(field, f"the window of {step.window} is longer than the clip of {frames} frames")
            case Mask() if mask is not None:
                _check_mask(mask, width, height, frames)
            case _:
                pass
    field = "task" if request.task else "degradation"
    if width * height > settings.max_pixels:
        raise invalid(field, f"the restored frame, {width}x{height}, would exceed {settings.max_pixels} pixels")
    if frames > settings.max_frames:
        raise invalid(field, f"the restored clip would have {frames} frames; {settings.max_frames} are allowed")
    if request.solver.preset == "published":
        _check_published(request.degradations(), width, height)


def _check_published(stated: list[Degradation], width: int, height: int) -> None:
    for step in stated:
        match step:
            case TemporalAverage() | Downsample(filter="mean_pool"):
                pass
            case GaussianBlur() if step.sigma is not None:
                pass
            case _:
                raise invalid("solver.preset", f"the published solver knows no {step.kind} such as this")
    if min(width, height) <= PUBLISHED_MARGIN:
        detail = f"the published solver needs frames of more than {PUBLISHED_MARGIN} pixels a side"
        raise invalid("solver.preset", f"{detail}; the restored ones have {width}x{height}")


def _find(upload_id: str, kind: UploadKind, field: str, records: Records) -> Upload:
    upload = records.upload(upload_id)
    if upload is None:
        detail = "There is no such upload, or it has expired."
        raise Problem(404, "upload_not_found", detail, [FieldError(field=field, code="not_found", detail=detail)])
    if upload.kind != kind:
        raise invalid(field, f"this upload is a {upload.kind}; a {kind} is needed (POST /v1/uploads?kind={kind})")
    return upload


def _check_mask(mask: MediaInfo, width: int, height: int, frames: int) -> None:
    detail = None
    if (mask.width, mask.height) != (width, height):
        detail = f"The mask is {mask.width}x{mask.height}; it must be {width}x{height}."
    elif mask.frames not in (1, frames):
        detail = f"The mask has {mask.frames} frames; it must have 1 or {frames}."
    if detail:
        field = FieldError(field="source.mask_upload_id", code="mask_mismatch", detail=detail)
        raise Problem(422, "mask_mismatch", detail, [field])
