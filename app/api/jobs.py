"""Jobs: queue, look, wait, cancel, retry, purge."""

import re
import time
from hashlib import sha256
from typing import Annotated

from anyio import sleep
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.api.bounded import Bounded
from app.api.wiring import JobId, Services, Tenant, Wired
from app.contract import Job, JobRequest, JobStatus
from app.degradations import task_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Bounded)

WAIT_SECONDS = 60  # the longest that `Prefer: wait=N` is granted
LOOK_SECONDS = 0.25

Prefer = Annotated[list[str] | None, Header(description="`wait=N`: answer once the job has ended, or after N seconds")]


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[Job]
    next_cursor: str | None


@router.post("", status_code=202, response_model=Job)
async def create_job(
    job_request: JobRequest,
    request: Request,
    wired: Wired,
    tenant: Tenant,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    prefer: Prefer = None,
) -> Response:
    """Queue a clip for restoration. Poll `Location`, or follow `urls.events`, until `terminal` is true."""
    if idempotency_key is None:
        job, created = await run_in_threadpool(wired.jobs.submit, job_request, tenant=tenant)
    else:
        job, created = await run_in_threadpool(wired.idempotency.submit, idempotency_key, job_request, tenant)
    return await _submitted(request, wired, job, created, prefer)


@router.put("/{job_id}", status_code=202, response_model=Job, responses={200: {"model": Job}})
async def put_job(
    job_id: JobId, job_request: JobRequest, request: Request, wired: Wired, tenant: Tenant, prefer: Prefer = None
) -> Response:
    """The same, under an id of the client's choice: `job_` and 26 of 0-9a-z. Sent again, it gives the job there is."""
    job, created = await run_in_threadpool(wired.jobs.submit, job_request, job_id, tenant=tenant)
    return await _submitted(request, wired, job, created, prefer, 202 if created else 200)


@router.get("")
def list_jobs(
    wired: Wired,
    tenant: Tenant,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> JobPage:
    """Jobs, newest first; `next_cursor` leads to the next page."""
    jobs, following = wired.jobs.page(status, limit, cursor, tenant)
    return JobPage(data=jobs, next_cursor=following)


@router.get("/{job_id}", response_model=Job)
async def get_job(
    job_id: JobId,
    request: Request,
    wired: Wired,
    prefer: Prefer = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A job as it is now; 304 where that is what the client has."""
    job = await run_in_threadpool(wired.jobs.get, job_id)
    response = await _answer(request, wired, job, prefer)
    if if_none_match is not None and matches(if_none_match, response.headers["ETag"]):
        return Response(status_code=304, headers={"ETag": response.headers["ETag"]})
    return response


@router.post("/{job_id}/cancel")
def cancel_job(job_id: JobId, wired: Wired, response: Response) -> Job:
    """A queued job is canceled at once; one that runs goes to `canceling`, and stops within seconds."""
    job = wired.jobs.cancel(job_id)
    response.status_code = 200 if job.terminal else 202
    return job


@router.post("/{job_id}/retry", status_code=202)
def retry_job(job_id: JobId, wired: Wired) -> Job:
    """Queue a job that failed, was canceled or expired once more."""
    return wired.jobs.retry(job_id)


@router.delete("/{job_id}", status_code=204)
def delete_job(job_id: JobId, wired: Wired) -> None:
    """Purge the files and the record of a job that has ended."""
    wired.jobs.delete(job_id)


def matches(wanted: str, etag: str) -> bool:
    """If-None-Match: any of a list of tags, weak or strong, or `*`."""
    tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
    return etag in tags or "*" in tags


async def _submitted(
    request: Request, wired: Services, job: Job, created: bool, prefer: list[str] | None, status: int = 202
) -> Response:
    if created:
        wired.metrics.jobs_created.labels(task_of(job.request.degradations())).inc()
    elif request.method == "POST":
        prefer = None  # the first answer again
    response = await _answer(request, wired, job, prefer)
    response.status_code = status
    response.headers["Location"] = job.urls["self"]
    return response


async def _answer(request: Request, wired: Services, job: Job, prefer: list[str] | None) -> Response:
    headers = {}
    if seconds := _wait(prefer):
        job = await _ended(request, wired, job, seconds)
        headers["Preference-Applied"] = f"wait={seconds}"
    body = job.model_dump_json().encode()
    headers["ETag"] = f'"{sha256(body).hexdigest()[:32]}"'
    return Response(body, headers=headers, media_type="application/json")


def _wait(prefer: list[str] | None) -> int:
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\b", ", ".join(prefer or []), re.IGNORECASE)
    return min(int(found[1]), WAIT_SECONDS) if found else 0


async def _ended(request: Request, wired: Services, job: Job, seconds: int) -> Job:
    """The job once it has ended, or as it is after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (job.terminal or wired.stopping.is_set() or time.monotonic() >= deadline):
        await sleep(LOOK_SECONDS)
        if await request.is_disconnected():
            break
        job = await run_in_threadpool(wired.jobs.get, job.id)
    return job
