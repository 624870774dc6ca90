"""What happens to a job, as it happens: server-sent events."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import structlog
from anyio import sleep, to_thread
from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from redis.exceptions import RedisError

from app.api.wiring import JobId, Services, Wired
from app.contract import Job
from app.errors import invalid
from app.records import Event, UnknownJob

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5  # a look yields one `progress` at most: twice a second
AWAY_SECONDS = 2.0
START = "0-0"


@dataclass(frozen=True)
class Following:
    """Who listens to what, and since which event."""

    wired: Services
    job_id: str
    after: str


def following(
    job_id: JobId, wired: Wired, last_event_id: Annotated[str | None, Header(examples=["1719400000000-0"])] = None
) -> Following:
    """Checked before the stream begins: whether the job exists, and whether anything is left to tell."""
    if last_event_id is not None and not re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id, re.ASCII):
        raise invalid("Last-Event-ID", "not the id of an event of this service")
    job = wired.jobs.get(job_id)
    if last_event_id is not None and job.terminal and not wired.records.events(job_id, last_event_id):
        raise HTTPException(204)  # which keeps an EventSource from coming back
    return Following(wired, job_id, last_event_id or START)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(follow: Annotated[Following, Depends(following)]) -> AsyncIterator[ServerSentEvent]:
    """`status` and `progress` events, from the first or from after Last-Event-ID, then `final` with the whole job."""
    after = follow.after
    while not follow.wired.stopping.is_set():
        try:
            job, batch = await to_thread.run_sync(_look, follow, after, limiter=follow.wired.listeners)
        except UnknownJob:
            return
        except RedisError:
            log.warning("events wait for Redis", job_id=follow.job_id)
            await sleep(AWAY_SECONDS)
            continue
        for event in _thinned(batch):
            last = job.terminal and event is batch[-1]
            # The last id belongs to the final event: whoever has that id has seen everything.
            yield ServerSentEvent(event=event.kind, raw_data=event.data, id=None if last else event.id)
        after = batch[-1].id if batch else after
        if job.terminal:
            yield ServerSentEvent(event="final", raw_data=job.model_dump_json(), id=after)
            return
        await sleep(LOOK_SECONDS)


def _look(follow: Following, after: str) -> tuple[Job, list[Event]]:
    """The job, and all events up to that state of it."""
    batch = follow.wired.records.events(follow.job_id, after)
    job = follow.wired.jobs.get(follow.job_id)
    if job.terminal:
        batch = follow.wired.records.events(follow.job_id, after)
    return job, batch


def _thinned(batch: list[Event]) -> list[Event]:
    """Without all progress but the last."""
    progress = [event for event in batch if event.kind == "progress"]
    return [event for event in batch if event.kind != "progress" or event is progress[-1]]
