"""Where jobs are found again, whatever becomes of them."""

import pytest
from redis import Redis

from app.contract import JobStatus
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
