"""What becomes of jobs whose worker met with something between two steps: real Redis, the real ledger."""

from typing import cast

import pytest
from redis import Redis
from rq.utils import now

from app.contract import TASK, Job, JobStatus
from app.settings import Settings
from tests.worker.front_end import Service
from worker.attempt import Attempt
from worker.horse import Ended
from worker.lease import Lease
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.warm_worker import WarmWorker

ALLOWED = frozenset({TASK})


@pytest.fixture
def service(redis_client: Redis) -> Service:
    return Service(redis_client)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test", "0", "bundled")


@pytest.fixture
def worker(redis_client: Redis, metrics: Metrics) -> WarmWorker:
    worker = WarmWorker(Settings(max_attempts=2), redis_client, metrics, "test")
    worker.birth_date = now()
    return worker


@pytest.fixture
def ledger(worker: WarmWorker) -> Ledger:
    return worker.ledger


def taken(worker: WarmWorker) -> Attempt:
    found = worker.ledger.take(ALLOWED)
    assert found
    job, queued = found
    attempt = Attempt(job, Lease(queued, worker.prepare_execution(queued)))
    worker.ledger.leased()
    return attempt


def finished(metrics: Metrics) -> dict[str, float]:
    """How many jobs it has counted, by their state."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {s.labels["status"]: s.value for s in samples if s.name == "visionxl_jobs_finished_total"}


def waiting(service: Service) -> list[str]:
    return [raw.decode() for raw in cast(list[bytes], service.redis.lrange("rq:queue:normal", 0, -1))]


def test_a_job_taken_as_redis_went_is_given_back_and_no_attempt_counted(service: Service, ledger: Ledger) -> None:
    job_id, after = service.submit(), service.submit()
    assert ledger.take(ALLOWED)
    assert waiting(service) == [after]
    ledger.put_back()
    assert waiting(service) == [job_id, after]
    assert (service.status(job_id), service.records.get(job_id).attempt) == (JobStatus.queued, 0)
    ledger.put_back()  # once
    assert waiting(service) == [job_id, after]


def test_what_others_found_meanwhile_is_not_given_back(
    service: Service, worker: WarmWorker, redis_client: Redis
) -> None:
    job_id = service.submit()
    late = Ledger(redis_client, Settings(), worker.metrics)
    assert late.take(ALLOWED)
    worker.ledger.lost(job_id, None)
    attempt = taken(worker)
    late.put_back()
    assert waiting(service) == []
    assert attempt.lease.held()
    service.records.move(job_id, JobStatus.starting)
    late._between = job_id
    late.put_back()
    assert (waiting(service), service.status(job_id)) == ([], JobStatus.starting)


def test_a_leased_job_is_not_given_back(service: Service, worker: WarmWorker) -> None:
    service.submit()
    attempt = taken(worker)
    worker.ledger.put_back()
    assert (waiting(service), attempt.lease.held()) == ([], True)


def test_a_job_cancelled_as_it_was_taken_is_counted_by_who_cancelled_it(
    service: Service, worker: WarmWorker, metrics: Metrics
) -> None:
    ended: list[Job] = []
    worker.ledger.on_end = ended.append
    job_id = service.submit()
    attempt = taken(worker)
    service.records.move(job_id, JobStatus.canceled)  # as the front end does it with one that waits
    attempt.settle(worker.ledger, Ended("overtaken"))
    assert finished(metrics) == {}
    assert [job.id for job in ended] == [job_id], "what is kept of it goes all the same"
    assert service.leftovers() == []


def test_an_end_that_the_task_wrote_is_counted_by_its_worker(
    service: Service, worker: WarmWorker, metrics: Metrics
) -> None:
    job_id = service.submit()
    attempt = taken(worker)
    for to in (JobStatus.starting, JobStatus.processing, JobStatus.finalizing, JobStatus.succeeded):
        service.records.move(job_id, to)
    attempt.settle(worker.ledger, Ended("finished"))
    assert finished(metrics) == {"succeeded": 1}


def test_a_job_whose_store_stays_away_says_so(service: Service, worker: WarmWorker, metrics: Metrics) -> None:
    job_id = service.submit()
    for attempt in (1, 2):
        at = taken(worker)
        service.records.move(job_id, JobStatus.starting, attempt=attempt)
        at.settle(worker.ledger, Ended("store_unavailable"))
    job = service.records.get(job_id)
    assert job.error is not None
    assert (job.status, job.error.code, job.error.retryable) == (JobStatus.failed, "store_unavailable", True)
    labels = {"reason": "store_unavailable"}
    assert metrics.registry.get_sample_value("visionxl_job_resumes_total", labels) == 1


def test_a_record_that_cannot_be_read_stops_nobody(service: Service, ledger: Ledger, redis_client: Redis) -> None:
    """Another version wrote it, whose workers will find it."""
    strange, job_id = service.submit(), service.submit()
    key = f"vxl:job:{strange}"
    whole = redis_client.get(key)
    assert isinstance(whole, bytes)
    redis_client.set(key, whole.replace(b'"deblur"', b'"a task to come"'))
    found = ledger.take(ALLOWED)
    assert found
    assert found[0].id == job_id
    assert [job.id for job in service.records.live()] == [job_id]
    ledger.lost(strange, None)
    redis_client.set(key, whole)
    ledger.lost(strange, None)  # as a housekeeper of that version does
    assert waiting(service) == [strange]


def test_what_another_version_added_to_a_record_is_passed_over(service: Service, redis_client: Redis) -> None:
    job_id = service.submit()
    key = f"vxl:job:{job_id}"
    whole = redis_client.get(key)
    assert isinstance(whole, bytes)
    redis_client.set(key, whole.replace(b'"request":{', b'"request":{"to_come":null,'))
    assert service.records.get(job_id).status is JobStatus.queued
    assert service.records.move(job_id, JobStatus.starting).status is JobStatus.starting
