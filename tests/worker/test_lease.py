"""A worker's claim on a job: it goes by the clock of Redis, and a process that nobody can kill does not hold it."""

import math
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis import Redis
from rq.utils import now

from app.contract import TASK, JobStatus
from app.settings import Settings
from tests.worker.front_end import Service
from worker.attempt import Attempt
from worker.horse import Ended
from worker.lease import Lease
from worker.metrics import Metrics
from worker.stable import KILL_SECONDS, HorseGone
from worker.warm_worker import WarmWorker


@pytest.fixture
def worker(redis_client: Redis) -> WarmWorker:
    worker = WarmWorker(Settings(), redis_client, Metrics("test", "0", "bundled"), "test")
    worker.birth_date = now()
    return worker


@pytest.fixture
def attempt(worker: WarmWorker) -> Attempt:
    """At a job that was just taken."""
    Service(worker.connection).submit()
    taken = worker.ledger.take(frozenset({TASK}))
    assert taken
    job, queued = taken
    return Attempt(job, Lease(queued, worker.prepare_execution(queued)))


def left(attempt: Attempt, redis: Redis) -> float:
    """Seconds, by the clock of Redis."""
    seconds, millionths = redis.time()
    until = redis.zscore(attempt.lease.ticket.registry, attempt.lease.ticket.entry)
    assert isinstance(until, float)
    return until - (seconds + millionths / 1e6)


def test_a_lease_that_two_heartbeats_may_miss_is_refused() -> None:
    Settings(heartbeat_seconds=1, lease_seconds=3)
    with pytest.raises(ValueError, match="VXL_LEASE_SECONDS"):
        Settings(heartbeat_seconds=1, lease_seconds=2.9)


def test_a_lease_goes_by_the_clock_of_redis(worker: WarmWorker, attempt: Attempt, redis_client: Redis) -> None:
    """That of its worker may be an hour behind."""
    ticket = attempt.lease.ticket
    redis_client.zadd(ticket.registry, {ticket.entry: time.time() - 3600 + 25})
    worker.running = attempt
    worker._beat()
    assert 24 < left(attempt, redis_client) <= 25


def test_a_lease_that_was_lost_is_not_renewed(worker: WarmWorker, attempt: Attempt, redis_client: Redis) -> None:
    redis_client.zrem(attempt.lease.ticket.registry, attempt.lease.ticket.entry)
    worker.running = attempt
    worker._beat()
    assert not attempt.lease.held()


def test_an_end_that_redis_lost_is_come_to_again(worker: WarmWorker, attempt: Attempt) -> None:
    """Its task said that it succeeded; Redis was killed, and knows but of the step before."""
    job_id, records = attempt.job.id, worker.records
    for to in (JobStatus.starting, JobStatus.processing, JobStatus.finalizing):
        records.move(job_id, to, attempt=1)
    attempt.settle(worker.ledger, Ended("finished"))
    assert (records.get(job_id).status, records.get(job_id).attempt) == (JobStatus.queued, 1)
    assert worker.connection.lrange("rq:queue:normal", 0, -1) == [job_id.encode()]


def test_a_horse_that_cannot_be_killed_holds_nothing(worker: WarmWorker, attempt: Attempt) -> None:
    """Its device hangs in the kernel: the pipe never ends."""
    kills: list[int] = []
    shared = SimpleNamespace(silent_seconds=lambda: 0.0, ask=lambda reason: None)
    horse = cast(Any, SimpleNamespace(shared=shared, kill=lambda: kills.append(1)))
    attempt.look_at = math.inf
    attempt.stop("stall", 0)
    attempt.kill_at = time.monotonic() - KILL_SECONDS / 2
    worker._watch(attempt, horse)
    attempt.kill_at -= KILL_SECONDS / 2
    with pytest.raises(HorseGone):
        worker._watch(attempt, horse)
    assert len(kills) == 2
