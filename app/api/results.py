"""The files a job leaves: the restored clip, its preview, the comparison, the manifest. In ranges, if so asked."""

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from app.api.jobs import matches
from app.api.wiring import JobId, Services, Wired
from app.contract import RESULT_FILES, JobStatus
from app.errors import Problem
from app.keys import result_key
from app.records import now
from app.store import FileInfo

router = APIRouter(prefix="/v1/jobs", tags=["results"])

MEDIA_TYPES = {"mp4": "video/mp4", "json": "application/json"}


def _result(name: str) -> Callable[..., Response]:
    def result(
        job_id: JobId,
        request: Request,
        wired: Wired,
        range: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        key, info = _find(job_id, name, wired)
        etag = f'"{info.etag}"'
        suffix = RESULT_FILES[name].rpartition(".")[2]
        shown = "attachment" if name == "output" else "inline"
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f'{shown}; filename="{job_id}-{name}.{suffix}"',
            "X-Content-Type-Options": "nosniff",
        }
        if if_none_match is not None and matches(if_none_match, etag):
            return Response(status_code=304, headers=headers)
        asked = span(range, info.size) if range and if_range in (None, etag) else None
        start, end = asked or (0, info.size)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
        headers["Content-Length"] = str(end - start)
        status = 206 if asked else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=MEDIA_TYPES[suffix])
        return StreamingResponse(wired.store.read(key, start, end), status, headers, MEDIA_TYPES[suffix])

    return result


for _name, _summary in {
    "output": "The restored clip",
    "preview": "The restored clip as any browser plays it",
    "comparison": "Before and after, side by side",
    "manifest": "How the result was made, and its checksums",
}.items():
    _content = {MEDIA_TYPES[RESULT_FILES[_name].rpartition(".")[2]]: {"schema": {"type": "string", "format": "binary"}}}
    _endpoint = _result(_name)
    router.add_api_route(
        f"/{{job_id}}/{_name}",
        _endpoint,
        methods=["GET"],
        name=f"get_{_name}",
        summary=_summary,
        response_class=StreamingResponse,
        responses={200: {"content": _content}, 206: {"description": "The range asked for", "content": _content}},
    )
    router.add_api_route(f"/{{job_id}}/{_name}", _endpoint, methods=["HEAD"], include_in_schema=False)


def _find(job_id: str, name: str, wired: Services) -> tuple[str, FileInfo]:
    """The key of a result, and what the store says of it."""
    job = wired.jobs.get(job_id)
    if not job.terminal:
        raise Problem(409, "job_not_finished", f"The job is {job.status}; its {name} comes when it has succeeded.")
    if job.status is not JobStatus.succeeded:
        raise Problem(409, "job_has_no_result", f"The job is {job.status} and has no {name}.")
    if job.expires_at is not None and job.expires_at <= now():
        raise Problem(410, "result_expired", f"The {name} was kept until {job.expires_at.isoformat()}.")
    key = result_key(job, name)
    info = wired.store.info(key)
    if info is None:
        raise Problem(404, "result_not_found", f"This job has no {name}.")
    return key, info


def span(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last, from a Range header; None where it is to be ignored.

    One range is served; several, or a unit other than bytes, are answered with the whole file, as RFC 9110 allows.
    Raises a Problem where the range lies outside the file.
    """
    found = re.fullmatch(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", header.strip(), re.IGNORECASE | re.ASCII)
    if not found or not (found[1] or found[2]):
        return None
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    else:
        start, end = max(size - int(found[2]), 0), size
    if start >= end:
        detail = f"The file has {size} bytes."
        raise Problem(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end
