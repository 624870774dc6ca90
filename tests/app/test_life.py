"""The life of jobs under any order of events: clients at the real API, workers that take, lose, end and give back.

The workers are the real ones' parents without their horses, at a clock of the test's own: what a horse would do to a
record is done here.
"""

import os
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from typing import Any, cast

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from app.contract import TERMINAL, TRANSITIONS, Job, JobError, JobStatus
from app.ids import new_id
from app.records import IllegalTransition, Records, UnknownJob, now
from app.settings import QUEUES, Settings
from tests.app.conftest import Server
from worker.attempt import Attempt
from worker.control import Control
from worker.horse import Ended
from worker.lease import Lease
from worker.metrics import Metrics
from worker.ticket import LeaseLost
from worker.verdicts import LIVE
from worker.warm_worker import WarmWorker

NEXT = {
    JobStatus.queued: JobStatus.starting,
    JobStatus.starting: JobStatus.processing,
    JobStatus.processing: JobStatus.finalizing,
    JobStatus.finalizing: JobStatus.succeeded,
}
FAILED = Ended("failed", JobError(code="corrupt_stream", detail="It does not decode.", retryable=False))
WORKERS = 2


class Life(RuleBasedStateMachine):
    """Any number of jobs, two workers."""

    jobs = Bundle("jobs")

    def __init__(self, server: Server, redis: Redis, upload_id: str) -> None:
        super().__init__()
        redis.delete(*(redis.keys("rq:*") or ["-"]), *(redis.keys("vxl:job*") or ["-"]))
        self.api = httpx.Client(base_url=server.url, timeout=30)
        self.redis, self.records, self.upload_id = redis, Records(redis), upload_id
        settings = Settings(redis_url=server.settings.redis_url, data_dir=server.settings.data_dir, max_attempts=2)
        self.workers = [
            WarmWorker(settings, redis, Metrics(name, "0", "bundled"), name) for name in ("worker-0", "worker-1")
        ]
        self.attempts: dict[int, Attempt] = {}  # by worker
        self.stale: list[Attempt] = []  # whose lease another took back while they went on
        self.ended: dict[str, Job] = {}  # as it was when it was first seen to have ended

    def teardown(self) -> None:
        """Whatever happened, every job that is left can be brought to its end, after which nothing remains."""
        for number in list(self.attempts):
            self.settle(number, Ended("lost"))
        for _ in range(100):
            taken = self.take(0)
            if not taken:
                break
            while 0 in self.attempts and self.advance(0):
                pass
            if 0 in self.attempts:
                self.settle(0, Ended("finished"))
        jobs = list(self.records.newest())
        assert all(job.terminal for job in jobs), [job.status for job in jobs]
        kinds = ("rq:job:*", "rq:execution*", "rq:wip:*", "rq:queue:*", "rq:registry:*")
        assert [key for kind in kinds for key in self.redis.scan_iter(kind)] == []
        self.api.close()

    # --- clients

    @rule(target=jobs, priority=st.sampled_from(QUEUES))
    def submit(self, priority: str) -> str:
        job_id = new_id("job")
        body = {"source": {"upload_id": self.upload_id}, "task": "deblur", "priority": priority}
        assert self.api.put(f"/v1/jobs/{job_id}", json=body).status_code == 202
        return job_id

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        before = self.records.find(job_id)
        answer = self.api.post(f"/v1/jobs/{job_id}/cancel")
        if before is None:
            assert answer.status_code == 404
        elif before.terminal:
            assert answer.status_code == 409
        else:
            expected = (200, "canceled") if before.status is JobStatus.queued else (202, "canceling")
            assert (answer.status_code, answer.json()["status"]) == expected

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        before = self.records.find(job_id)
        answer = self.api.post(f"/v1/jobs/{job_id}/retry")
        if before is None:
            assert answer.status_code == 404
        elif JobStatus.queued in TRANSITIONS[before.status] and before.terminal:
            assert (answer.status_code, answer.json()["status"]) == (202, "queued")
            self.ended.pop(job_id, None)
        else:
            assert answer.status_code == 409

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        before = self.records.find(job_id)
        answer = self.api.delete(f"/v1/jobs/{job_id}")
        assert answer.status_code == (404 if before is None else 204 if before.terminal else 409)

    # --- workers

    @rule(number=st.integers(0, WORKERS - 1))
    def look_for_a_job(self, number: int) -> None:
        """From the highest queue on."""
        if number not in self.attempts:
            self.take(number)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.advance(data.draw(st.sampled_from(sorted(self.attempts))))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), ended=st.sampled_from([Ended("finished"), Ended("preempted"), Ended("lost"), FAILED]))
    def end(self, data: st.DataObject, ended: Ended) -> None:
        self.settle(data.draw(st.sampled_from(sorted(self.attempts))), ended)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def lose_the_lease(self, data: st.DataObject) -> None:
        """Its worker was not heard of for too long, but is not dead."""
        number = data.draw(st.sampled_from(sorted(self.attempts)))
        attempt = self.attempts.pop(number)
        ticket = attempt.lease.ticket
        self.redis.zadd(ticket.registry, {ticket.entry: 0}, xx=True)
        self.workers[1 - number].housekeeper.expire_leases()
        self.stale.append(attempt)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), ended=st.sampled_from([Ended("finished"), Ended("preempted"), Ended("lost"), FAILED]))
    def come_back(self, data: st.DataObject, ended: Ended) -> None:
        """And finds that it can write nothing."""
        attempt = data.draw(st.sampled_from(self.stale))
        before = self.records.find(attempt.job.id)
        if before is not None and not before.terminal:
            assert not self.move(attempt, NEXT.get(before.status, JobStatus.canceled))
        with suppress(LeaseLost):
            attempt.settle(self.workers[0].ledger, ended)
        assert self.records.find(attempt.job.id) == before

    # --- what horse and parent do to a record

    def take(self, number: int) -> bool:
        worker, waiting = self.workers[number], [job_id for name in QUEUES for job_id in self.queue(name)]
        taken = worker.ledger.take(worker.allowed)
        if taken is None:
            assert waiting == []
            return False
        job, queued = taken
        assert job.id == waiting[0]
        self.attempts[number] = Attempt(job, Lease(queued, worker.prepare_execution(queued)))
        worker.prepare_job_execution(queued, remove_from_intermediate_queue=True)
        return True

    def queue(self, name: str) -> list[str]:
        return [raw.decode() for raw in cast(list[bytes], self.redis.lrange(f"rq:queue:{name}", 0, -1))]

    def advance(self, number: int) -> bool:
        """The task comes one state further; False where it cannot."""
        attempt = self.attempts[number]
        job = self.records.find(attempt.job.id)
        return job is not None and job.status in NEXT and self.move(attempt, NEXT[job.status])

    def move(self, attempt: Attempt, to: JobStatus) -> bool:
        control = Control()
        control.ticket = attempt.lease.ticket
        changes: dict[str, Any] = {}
        if to is JobStatus.starting:
            changes = {"attempt": self.records.get(attempt.job.id).attempt + 1, "started_at": now()}
        try:
            self.records.move(attempt.job.id, to, lambda pipe: control.check(self.redis), **changes)
        except (IllegalTransition, UnknownJob, LeaseLost):
            return False
        return True

    def settle(self, number: int, ended: Ended) -> None:
        worker, attempt = self.workers[number], self.attempts.pop(number)
        worker.executions.clear()
        if worker.ledger.unwanted(attempt.job):
            attempt.stop("cancel", 0)
        attempt.settle(worker.ledger, ended)

    # --- what always holds

    @invariant()
    def every_step_is_in_the_table(self) -> None:
        for job in self.records.newest():
            told = [event.data for event in self.records.events(job.id) if event.kind == "status"]
            path = [JobStatus(data.split('"')[3]) for data in told]
            assert path[0] is JobStatus.queued
            assert path[-1] is job.status
            for before, after in pairwise(path):
                assert after in TRANSITIONS[before], path

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        places: dict[str, list[str]] = defaultdict(list)
        for name in QUEUES:
            for job_id in self.queue(name):
                places[job_id].append(name)
            for raw in cast(list[bytes], self.redis.zrange(f"rq:wip:{name}", 0, -1)):
                places[raw.decode().partition(":")[0]].append("leased")
            assert self.redis.llen(f"rq:queue:{name}:intermediate") == 0
        running = {attempt.job.id for attempt in self.attempts.values()}
        for job in self.records.newest():
            where = places.pop(job.id, [])
            if job.id in running:
                assert where in (["leased"], ["leased", job.request.priority], [job.request.priority, "leased"])
            else:
                assert where == ([] if job.terminal else [job.request.priority]), (job.status, where)
                assert job.status not in LIVE
        assert set(places) <= running

    @invariant()
    def an_end_is_an_end(self) -> None:
        for job in self.records.newest():
            if job.terminal:
                first = self.ended.setdefault(job.id, job)
                assert (first.status, first.completed_at) == (job.status, job.completed_at)
            assert job.attempt <= 2
        assert self.records.live_ids() == {job.id for job in self.records.newest() if job.status not in TERMINAL}


def test_any_life_of_jobs_is_in_the_table(server: Server, redis_client: Redis, upload_id: str) -> None:
    class Here(Life):
        def __init__(self) -> None:
            super().__init__(server, redis_client, upload_id)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize="VXL_TEST_FAULTS" not in os.environ,  # in full it is another order of events each time
            suppress_health_check=list(HealthCheck),
        ),
    )
