"""Cancel, retry, expire, purge."""

import time
from typing import Any

import httpx
import pytest
from redis import Redis

from app.contract import JobError, JobStatus, Progress
from app.records import Records
from tests.app.conftest import Server, assert_problem

LIVE = [JobStatus.starting, JobStatus.processing, JobStatus.finalizing]


def advance(records: Records, job_id: str, to: JobStatus, **changes: Any) -> None:
    """The way a worker takes a queued job."""
    way = [*LIVE, JobStatus.succeeded]
    steps = way[: way.index(to)] if to in way else way[:2]
    for step in steps:
        records.move(job_id, step)
    records.move(job_id, to, **changes)


def test_a_queued_job_is_canceled_at_once(api: httpx.Client, job: dict[str, Any], redis_client: Redis) -> None:
    response = api.post(job["urls"]["cancel"])
    assert response.status_code == 200
    canceled = response.json()
    assert (canceled["status"], canceled["terminal"], canceled["queue_position"]) == ("canceled", True, None)
    assert canceled["completed_at"] is not None
    assert redis_client.llen("rq:queue:normal") == 0
    assert_problem(api.post(job["urls"]["cancel"]), 409, "wrong_state")


@pytest.mark.parametrize("state", LIVE)
def test_a_job_that_runs_is_told_to_stop(
    api: httpx.Client, job: dict[str, Any], records: Records, state: JobStatus
) -> None:
    advance(records, job["id"], state)
    records.progress(job["id"], Progress(stage="sampling", percent=40))
    for _ in range(2):
        response = api.post(job["urls"]["cancel"])
        assert (response.status_code, response.json()["status"]) == (202, "canceling")
        assert response.json()["progress"]["percent"] == 40
    assert records.cancel_asked_at(job["id"]) is not None


@pytest.mark.parametrize("state", [JobStatus.succeeded, JobStatus.failed])
def test_a_job_that_ended_cannot_be_canceled(
    api: httpx.Client, job: dict[str, Any], records: Records, state: JobStatus
) -> None:
    advance(records, job["id"], state)
    assert_problem(api.post(job["urls"]["cancel"]), 409, "wrong_state")
    assert records.cancel_asked_at(job["id"]) is None


def test_a_failed_job_can_be_retried(
    api: httpx.Client, job: dict[str, Any], records: Records, redis_client: Redis
) -> None:
    redis_client.lpop("rq:queue:normal")
    records.ask_cancel(job["id"])
    error = JobError(code="gpu_lost", detail="The GPU was lost.", retryable=True)
    advance(records, job["id"], JobStatus.failed, error=error, attempt=3)
    records.progress(job["id"], Progress(stage="sampling", percent=40))
    assert api.get(job["urls"]["self"]).json()["error"]["code"] == "gpu_lost"

    response = api.post(job["urls"]["self"] + "/retry")
    assert response.status_code == 202
    retried = response.json()
    assert retried == job | {"queued_at": retried["queued_at"]}
    assert retried["queued_at"] > job["queued_at"]
    assert records.cancel_asked_at(job["id"]) is None
    assert redis_client.lrange("rq:queue:normal", 0, -1) == [job["id"].encode()]
    assert redis_client.ttl(f"rq:job:{job['id']}") == -1


def test_a_canceled_job_can_be_retried(api: httpx.Client, job: dict[str, Any], redis_client: Redis) -> None:
    api.post(job["urls"]["cancel"])
    assert not redis_client.exists(f"rq:job:{job['id']}")
    assert api.post(job["urls"]["self"] + "/retry").json()["status"] == "queued"
    assert redis_client.lrange("rq:queue:normal", 0, -1) == [job["id"].encode()]
    assert redis_client.ttl(f"rq:job:{job['id']}") == -1


@pytest.mark.parametrize("state", [None, *LIVE, JobStatus.succeeded])
def test_other_jobs_cannot_be_retried(
    api: httpx.Client, job: dict[str, Any], records: Records, state: JobStatus | None
) -> None:
    if state:
        advance(records, job["id"], state)
    assert_problem(api.post(job["urls"]["self"] + "/retry"), 409, "wrong_state")


def test_a_retry_needs_the_upload_still(api: httpx.Client, job: dict[str, Any], upload_id: str) -> None:
    api.post(job["urls"]["cancel"])
    api.delete(f"/v1/uploads/{upload_id}")
    assert_problem(api.post(job["urls"]["self"] + "/retry"), 404, "upload_not_found")


def test_a_job_that_waits_too_long_expires(api: httpx.Client, body: dict[str, Any], redis_client: Redis) -> None:
    job = api.post("/v1/jobs", json=body | {"cancel_after_seconds": 1}).json()
    time.sleep(1.05)
    listed = api.get("/v1/jobs?status=expired").json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]
    expired = api.get(job["urls"]["self"]).json()
    assert (expired["status"], expired["error"]["code"]) == ("expired", "expired")
    assert redis_client.llen("rq:queue:normal") == 0
    assert_problem(api.post(job["urls"]["cancel"]), 409, "wrong_state")

    retried = api.post(job["urls"]["self"] + "/retry").json()
    assert (retried["status"], retried["error"], retried["request"]["cancel_after_seconds"]) == ("queued", None, None)
    assert api.get(job["urls"]["self"]).json()["status"] == "queued"


def test_a_job_that_started_in_time_does_not_expire(api: httpx.Client, body: dict[str, Any], records: Records) -> None:
    job = api.post("/v1/jobs", json=body | {"cancel_after_seconds": 1}).json()
    records.move(job["id"], JobStatus.starting)
    time.sleep(1.05)
    assert api.get(job["urls"]["self"]).json()["status"] == "starting"


def test_purging_leaves_nothing(
    api: httpx.Client, server: Server, job: dict[str, Any], records: Records, redis_client: Redis, upload_id: str
) -> None:
    server.services.store.put_bytes(f"jobs/{job['id']}/1/output.mp4", b"clip")
    server.services.store.put_bytes(f"jobs/{job['id']}/2/output.mp4", b"clip")
    assert_problem(api.delete(job["urls"]["self"]), 409, "wrong_state")
    advance(records, job["id"], JobStatus.succeeded)
    assert api.delete(job["urls"]["self"]).status_code == 204
    assert_problem(api.get(job["urls"]["self"]), 404, "job_not_found")
    assert_problem(api.delete(job["urls"]["self"]), 404, "job_not_found")
    assert [path.name for path in server.files] == [upload_id]
    assert redis_client.keys(f"*{job['id']}*") == []
    assert api.get("/v1/jobs").json() == {"data": [], "next_cursor": None}
