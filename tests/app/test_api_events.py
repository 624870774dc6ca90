"""The event stream: live, replayed, ended."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastapi.routing
import httpx
import pytest

from app.contract import JobStatus, Progress
from app.records import Records
from tests.app.conftest import assert_problem
from tests.app.test_api_lifecycle import advance


@dataclass(frozen=True)
class Sent:
    """One event as it came over the wire."""

    event: str
    data: str
    id: str | None = None


def read(response: httpx.Response) -> Iterator[Sent]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield Sent(fields["event"], fields["data"], fields.get("id"))
            fields = {}


def follow(api: httpx.Client, job: dict[str, Any], after: str | None = None) -> list[Sent]:
    headers = {"Last-Event-ID": after} if after else {}
    with api.stream("GET", job["urls"]["events"], headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(read(response))


def order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def test_a_stream_tells_the_life_of_a_job(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    def work() -> None:
        records.move(job["id"], JobStatus.starting)
        records.move(job["id"], JobStatus.processing)
        for percent in range(0, 100, 5):
            records.progress(job["id"], Progress(stage="sampling", percent=percent))
            time.sleep(0.06)
        records.move(job["id"], JobStatus.finalizing)
        records.move(job["id"], JobStatus.succeeded)

    worker = threading.Timer(0.3, work)
    worker.start()
    started = time.monotonic()
    sent = follow(api, job)
    seconds = time.monotonic() - started
    worker.join()

    statuses = [one.data for one in sent if one.event == "status"]
    assert statuses == [
        f'{{"status": "{status}"}}' for status in ("queued", "starting", "processing", "finalizing", "succeeded")
    ]
    progress = [one for one in sent if one.event == "progress"]
    assert 1 <= len(progress) <= 2 * seconds + 1, "at most twice a second"
    assert sent[-1].event == "final"
    assert sent[-1].data == api.get(job["urls"]["self"]).text
    ids = [order(one.id) for one in sent if one.id]
    assert ids == sorted(set(ids))


def test_a_listener_that_returns_misses_and_repeats_nothing(
    api: httpx.Client, job: dict[str, Any], records: Records
) -> None:
    advance(records, job["id"], JobStatus.failed)
    sent = follow(api, job)
    assert [one.event for one in sent] == ["status", "status", "status", "status", "final"]
    for index, one in enumerate(sent[:-2]):
        assert follow(api, job, one.id) == sent[index + 1 :]

    # Whoever has the final event needs no more: 204 keeps an EventSource from coming back.
    done = api.get(job["urls"]["events"], headers={"Last-Event-ID": str(sent[-1].id)})
    assert (done.status_code, done.content) == (204, b"")


def test_a_retried_job_is_told_on(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    api.post(job["urls"]["cancel"])
    before = follow(api, job)
    api.post(job["urls"]["self"] + "/retry")
    threading.Timer(0.3, advance, (records, job["id"], JobStatus.succeeded)).start()
    sent = follow(api, job, before[-1].id)
    assert sent[0].data == '{"status": "queued"}'
    assert sent[-1].event == "final"


def test_a_deadline_ends_the_stream(api: httpx.Client, body: dict[str, Any]) -> None:
    job = api.post("/v1/jobs", json=body | {"cancel_after_seconds": 1}).json()
    sent = follow(api, job)
    assert (sent[-2].data, sent[-1].event) == ('{"status": "expired"}', "final")


def test_a_quiet_stream_is_kept_alive(api: httpx.Client, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.2)  # else 15 s
    with api.stream("GET", job["urls"]["events"]) as response:
        assert next(line for line in response.iter_lines() if line.startswith(":")) == ": ping"


def test_purging_a_job_ends_its_stream(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    with api.stream("GET", job["urls"]["events"]) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("event")) == "event: status"
        records.redis.delete(f"vxl:job:{job['id']}")
        assert [line for line in lines if line.startswith("event")] == []


@pytest.mark.parametrize("last", ["yesterday", "1", "1-2-3", "-1-0"])
def test_an_id_of_no_event_is_refused(api: httpx.Client, job: dict[str, Any], last: str) -> None:
    response = api.get(job["urls"]["events"], headers={"Last-Event-ID": last})
    assert_problem(response, 422, "invalid_parameter")
