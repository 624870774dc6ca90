"""Jobs of one tenant do not take all workers: real Redis, the real ledger."""

import pytest
from redis import Redis

from app.contract import TASK
from app.settings import Settings
from tests.worker.front_end import Service
from worker import tenants
from worker.control import INTERNAL_ERROR
from worker.ledger import Ledger
from worker.metrics import Metrics


@pytest.fixture
def service(redis_client: Redis) -> Service:
    return Service(redis_client)


@pytest.fixture
def ledger(redis_client: Redis) -> Ledger:
    return Ledger(redis_client, Settings(tenant_jobs=2), Metrics("test", "0", "bundled"))


def take(ledger: Ledger) -> str | None:
    taken = ledger.take(frozenset({TASK}))
    return taken[0].id if taken else None


def test_a_tenant_waits_while_enough_of_its_jobs_run(service: Service, ledger: Ledger) -> None:
    greedy = [service.submit(tenant="a") for _ in range(4)]
    modest, nobody = service.submit(tenant="b"), service.submit()
    assert [take(ledger) for _ in range(5)] == [*greedy[:2], modest, nobody, None]
    ledger.failed(greedy[0], INTERNAL_ERROR, None)
    assert [take(ledger), take(ledger)] == [greedy[2], None]


def test_who_helps_makes_way_for_no_job_that_may_not_run(service: Service, ledger: Ledger) -> None:
    """Else it would stop for it, find nothing to take, and begin again."""
    jobs = [service.submit(tenant="a") for _ in range(3)]
    assert [take(ledger), take(ledger)] == jobs[:2]
    assert not ledger.waiting()
    other = service.submit(tenant="b")
    assert ledger.waiting()
    assert take(ledger) == other
    assert not ledger.waiting()


def test_a_job_that_goes_back_to_its_queue_makes_room(service: Service, ledger: Ledger) -> None:
    jobs = [service.submit(tenant="a") for _ in range(3)]
    assert [take(ledger), take(ledger), take(ledger)] == [*jobs[:2], None]
    ledger.preempted(jobs[1], None)
    assert [take(ledger), take(ledger)] == [jobs[1], None]


def test_what_was_left_by_a_worker_that_died_is_forgotten(service: Service, ledger: Ledger) -> None:
    jobs = [service.submit(tenant="a") for _ in range(3)]
    assert [take(ledger), take(ledger), take(ledger)] == [*jobs[:2], None]
    tenants.forget(service.redis, tenants.running(service.redis), frozenset({jobs[0]}))
    assert take(ledger) == jobs[2]


def test_without_a_limit_all_run(service: Service, redis_client: Redis) -> None:
    jobs = [service.submit(tenant="a") for _ in range(3)]
    ledger = Ledger(redis_client, Settings(), Metrics("test", "0", "bundled"))
    assert [take(ledger) for _ in jobs] == jobs
