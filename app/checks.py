"""Can the request be carried out? Asked before a job is queued, not once a GPU has it."""

from app.containers import UploadKind
from app.contract import JobRequest, Upload
from app.errors import FieldError, Problem, invalid
from app.fit import Extent, Misfit, check_fit, check_given
from app.records import Records
from app.settings import Settings


def find_uploads(request: JobRequest, tenant: str | None, records: Records, settings: Settings) -> Upload:
    """The tenant's clip, once what goes with it was found and fits it; raises a Problem where it does not."""

    def find(upload_id: str, kind: UploadKind, field: str) -> Upload:
        upload = records.upload(upload_id)
        if upload is None or settings.hides(upload.tenant, tenant):
            detail = "There is no such upload, or it has expired."
            raise Problem(404, "upload_not_found", detail, [FieldError(field=field, code="not_found", detail=detail)])
        if upload.kind != kind:
            raise invalid(field, f"this upload is a {upload.kind}; a {kind} is needed (POST /v1/uploads?kind={kind})")
        return upload

    try:
        given = request.source.beside()
        check_given(request, given)
        clip = find(request.source.upload_id, "clip", "source.upload_id")
        beside = {kind: find(i, kind, f"source.{kind}_upload_id") for kind, i in given.items()}
        check_fit(request, _extent(clip), _extent(beside["mask"]) if "mask" in beside else None, settings)
    except Misfit as misfit:
        field = f"source.{misfit.field}_upload_id" if misfit.field in ("mask", "kernel") else misfit.field
        error = FieldError(field=field, code=misfit.code, detail=misfit.detail)
        raise Problem(422, misfit.code, misfit.detail, [error]) from misfit
    return clip


def _extent(upload: Upload) -> Extent:
    return Extent(upload.media.width, upload.media.height, upload.media.frames)
