"""Where jobs are found again, whatever becomes of them."""

import pytest
from redis import Redis

from app.contract import JobStatus, Progress
from app.records import Records, now
from tests.worker.front_end import Service


@pytest.fixture
def service(redis_client: Redis) -> Service:
    return Service(redis_client)


def test_the_index_follows_the_life_of_a_job(service: Service) -> None:
    records, job_id = service.records, service.submit()
    seen = [records.live_ids()]
    for status in (JobStatus.starting, JobStatus.processing, JobStatus.failed, JobStatus.queued, JobStatus.canceled):
        records.move(job_id, status)
        seen.append(records.live_ids())
    assert seen == [{job_id}, {job_id}, {job_id}, set(), {job_id}, set()]
    records.update(job_id, attempt=1)
    assert (records.live_ids(), records.live()) == (set(), [])
    records.delete(job_id)
    assert service.redis.exists("vxl:jobs:live") == 0


def test_an_update_says_when_a_job_expires(redis_client: Redis, service: Service) -> None:
    service.end(job_id := service.submit())
    assert Records(redis_client).expired_ids(10) == []
    service.records.update(job_id, expires_at=now())
    assert service.records.expired_ids(10) == [job_id]


def test_progress_is_written_by_who_has_the_job_alone(redis_client: Redis, service: Service) -> None:
    job_id, held = service.submit(), ("rq:wip:normal", "entry")
    before = service.records.events(job_id)
    service.records.progress(job_id, Progress(stage="sampling", percent=10), held)
    assert (service.records.get(job_id).progress.percent, service.records.events(job_id)) == (0, before)
    redis_client.zadd(held[0], {held[1]: 0})
    service.records.progress(job_id, Progress(stage="sampling", percent=20), held)
    assert service.records.get(job_id).progress.percent == 20
    assert [event.kind for event in service.records.events(job_id)] == ["status", "progress"]


def test_no_progress_is_left_of_a_job_that_was_deleted(redis_client: Redis, service: Service) -> None:
    service.end(job_id := service.submit())
    service.records.delete(job_id)
    service.records.progress(job_id, Progress(stage="sampling", percent=10))
    assert [key for key in redis_client.scan_iter("vxl:*") if job_id.encode() in key] == []
