"""What endpoints work with, made once by create_app and handed out by FastAPI's dependencies."""

from dataclasses import dataclass, field
from threading import Event
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Path, Request

from app.idempotency import Idempotency
from app.jobs import JOB_ID, Jobs
from app.metrics import Metrics
from app.records import Records, UnknownJob
from app.settings import Settings
from app.store import Store
from app.uploads import Uploads


@dataclass(frozen=True)
class Services:
    """The parts of the front end."""

    settings: Settings
    records: Records
    store: Store
    jobs: Jobs
    uploads: Uploads
    idempotency: Idempotency
    metrics: Metrics
    listeners: CapacityLimiter  # threads that look at Redis for event streams, so that these never take all others
    version: str
    stopping: Event = field(default_factory=Event)  # set once the server is to stop: whoever waits, ends


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


Wired = Annotated[Services, Depends(services)]


def tenant(request: Request, wired: Wired) -> str | None:
    """Who asks, where whatever stands in front of the API says so."""
    header = wired.settings.tenant_header
    return (request.headers.get(header) or None) if header else None


Tenant = Annotated[str | None, Depends(tenant)]


def job_id(
    job_id: Annotated[str, Path(examples=["job_01k2m3n4p5q6r7s8t9v0w1x2y3"])], wired: Wired, tenant: Tenant
) -> str:
    """An id of the wrong form belongs to no job, that of another tenant's to none that is shown."""
    if not JOB_ID.fullmatch(job_id):
        raise UnknownJob(job_id)
    if (
        wired.settings.tenant_header
        and (job := wired.records.find(job_id))
        and wired.settings.hides(job.tenant, tenant)
    ):
        raise UnknownJob(job_id)
    return job_id


JobId = Annotated[str, Depends(job_id)]
