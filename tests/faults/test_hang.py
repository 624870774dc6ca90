"""What hangs, and what comes back after it was given up: a job is never run to two ends."""

import json
import os
import signal
import time
from itertools import chain
from typing import cast

import pytest

from app.contract import RESULT_FILES, JobStatus
from app.keys import result_key
from tests.faults.conftest import ALL, LEASE_SECONDS, Fleet
from tests.faults.test_kill import assert_done, reach
from tests.processes import alive, wait_until


def test_a_horse_that_hangs_is_killed_and_its_job_goes_on(fleet: Fleet, undisturbed: str) -> None:
    worker = fleet.start(VXL_STALL_SECONDS="8")
    fleet.ready()
    horse = fleet.horse_of(worker)
    job_id = reach(fleet, "sampling")
    os.kill(horse, signal.SIGSTOP)
    assert_done(fleet, job_id, undisturbed, {2})
    assert not alive(horse)
    assert worker.poll() is None


def test_workers_that_all_stood_still_keep_their_jobs(fleet: Fleet, undisturbed: str) -> None:
    """For longer than their leases, as on machines that were paused: who keeps house lets others renew them first."""
    workers = [fleet.start(), fleet.start()]
    fleet.ready(2)
    jobs = [reach(fleet, "sampling"), fleet.submit()]
    wait_until(lambda: fleet.service.records.get(jobs[1]).attempt == 1)
    leader = cast(bytes, fleet.service.redis.get("vxl:housekeeper")).decode()
    first = int(cast(bytes, fleet.service.redis.hget(f"rq:worker:{leader}", "pid")))
    workers.sort(key=lambda worker: worker.pid != first)
    both = [(fleet.horse_of(worker), worker.pid) for worker in workers]
    for pid in chain(*both):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 2)
    for pids in both:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(LEASE_SECONDS / 2)  # it wakes up before the other
    for job_id in jobs:
        assert_done(fleet, job_id, undisturbed, {1})


@pytest.mark.parametrize("stage", ["sampling", "finishing", "writing the result"])
def test_a_worker_that_lost_its_lease_writes_nothing(fleet: Fleet, undisturbed: str, stage: str) -> None:
    """It is stopped with all it has under way; when it wakes up another has run the job, or does."""
    first = fleet.start()
    fleet.ready()
    horse = fleet.horse_of(first)
    job_id = reach(fleet, stage)
    for pid in (first.pid, horse):
        os.kill(pid, signal.SIGSTOP)
    second = fleet.start(fleet.direct)
    wait_until(lambda: fleet.service.records.get(job_id).attempt == 2, 60)
    fleet.horse_of(second)
    fleet.proxy.release()  # what the first one had sent arrives now
    for pid in (first.pid, horse):
        os.kill(pid, signal.SIGCONT)
    assert_done(fleet, job_id, undisturbed, {2})
    assert b"nothing written" in fleet.log_of(first) or b"overtaken" in fleet.log_of(first)
    keys = {result_key(fleet.service.records.get(job_id), name) for name in RESULT_FILES}
    wait_until(lambda: {file.key for file in fleet.store.files("jobs")} == keys)
    (manifest,) = (key for key in keys if key.endswith(RESULT_FILES["manifest"]))
    assert json.loads(fleet.store.get_bytes(manifest))["attempt"] == 2
    assert (first.poll(), second.poll()) == (None, None)


def test_a_job_that_kills_its_horse_fails_and_the_worker_goes_on(fleet: Fleet, undisturbed: str) -> None:
    worker = fleet.start()
    poison = fleet.submit()
    for attempt in (1, 2, 3):
        fleet.ready()
        wait_until(lambda n=attempt: fleet.service.records.get(poison).attempt == n, 60)  # type: ignore[misc]
        os.kill(fleet.horse_of(worker), signal.SIGKILL)
    failed = fleet.ended(poison)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.attempt) == (JobStatus.failed, "worker_lost", 3)
    after = fleet.submit()
    assert_done(fleet, after, undisturbed, {1})
    assert fleet.ends(poison) == ["failed"]


@pytest.mark.parametrize("stage", ["before taking", "starting", "sampling", "finishing"] if ALL else ["sampling"])
def test_a_canceled_job_ends_once_and_the_horse_stays_warm(fleet: Fleet, undisturbed: str, stage: str) -> None:
    worker = fleet.start()
    fleet.ready()
    horse = fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    fleet.cancel(job_id)
    fleet.proxy.release()
    assert fleet.ended(job_id).status is JobStatus.canceled
    fleet.assert_clean(job_id)
    after = fleet.submit()
    assert_done(fleet, after, undisturbed, {1})
    assert fleet.horse_of(worker) == horse
    assert fleet.ends(job_id) == ["canceled"]
