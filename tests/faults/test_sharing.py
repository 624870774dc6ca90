"""A long clip is done by all who have time, and comes out as if one had done it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from app.contract import JobStatus
from tests.faults.conftest import ALL, LEASE_SECONDS, LONG_FRAMES, LONG_UPLOAD, Fleet, in_full, outcome_alone
from tests.processes import alive, wait_until

Two = tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the long clip comes out as where one worker does it all."""
    return outcome_alone(tmp_path_factory.mktemp("alone"), LONG_UPLOAD, LONG_FRAMES, VXL_FANOUT_SEGMENTS="100")


@pytest.fixture
def two(fleet: Fleet) -> Iterator[Two]:
    """Workers that are there at once."""
    first, second = fleet.start(), fleet.start()
    fleet.ready(2)
    for worker in (first, second):
        fleet.horse_of(worker)
    yield first, second


def submit_long(fleet: Fleet) -> str:
    return fleet.service.submit(upload_id=LONG_UPLOAD, frames=LONG_FRAMES)


def helper_of(fleet: Fleet, two: Two) -> int:
    """Which of the two helps, once one does."""
    wait_until(lambda: any(b'"helping"' in fleet.log_of(worker) for worker in two), 60)
    return next(n for n, worker in enumerate(two) if b'"helping"' in fleet.log_of(worker))


def assert_alike(fleet: Fleet, job_id: str, alone: str) -> None:
    job = fleet.ended(job_id)
    assert job.status is JobStatus.succeeded, job.error
    assert fleet.output(job_id) == alone
    assert fleet.ends(job_id) == ["succeeded"]
    fleet.assert_clean(job_id)


def test_two_workers_do_it_together(fleet: Fleet, two: Two, alone: str) -> None:
    job_id = submit_long(fleet)
    helper = helper_of(fleet, two)
    assert_alike(fleet, job_id, alone)
    assert b'"how": "finished"' in fleet.log_of(two[helper])
    told = [json.loads(event.data) for event in fleet.service.records.events(job_id) if event.kind == "progress"]
    percents = [one["percent"] for one in told]
    assert percents == sorted(percents)
    assert told[-2]["frames_done"] <= told[-1]["frames_total"]


@pytest.mark.parametrize("whom", ["helper", "first"] if ALL else ["helper"])
def test_whoever_is_told_to_go_it_comes_out_the_same(fleet: Fleet, two: Two, alone: str, whom: str) -> None:
    job_id = submit_long(fleet)
    helper = helper_of(fleet, two)
    worker = two[helper if whom == "helper" else 1 - helper]
    worker.terminate()
    assert worker.wait(20) == 0
    assert_alike(fleet, job_id, alone)
    assert fleet.service.records.get(job_id).attempt == 1


@pytest.mark.parametrize("whom", ["helper", "horse of the helper", "first", "horse of the first"] if ALL else ["first"])
def test_whoever_is_killed_it_comes_out_the_same(fleet: Fleet, two: Two, alone: str, whom: str) -> None:
    job_id = submit_long(fleet)
    helper = helper_of(fleet, two)
    worker = two[helper if "helper" in whom else 1 - helper]
    os.kill(fleet.horse_of(worker) if "horse" in whom else worker.pid, signal.SIGKILL)
    assert_alike(fleet, job_id, alone)
    assert fleet.service.records.get(job_id).attempt == (1 if "helper" in whom else 2)


def test_a_helper_that_is_cut_off_is_done_without(fleet: Fleet, alone: str) -> None:
    """For longer than its claim: another takes its run, and it may go on with it meanwhile."""
    first = fleet.start(fleet.direct)
    fleet.ready()
    helper = fleet.start()
    fleet.ready(2)
    for worker in (first, helper):
        fleet.horse_of(worker)
    helper.send_signal(signal.SIGSTOP)  # so that it is the other one that takes the job
    job_id = submit_long(fleet)
    wait_until(lambda: fleet.service.status(job_id) is JobStatus.processing)
    helper.send_signal(signal.SIGCONT)
    wait_until(lambda: b'"helping"' in fleet.log_of(helper), 60)
    fleet.proxy.cut()
    time.sleep(LEASE_SECONDS + 5)
    fleet.proxy.mend()
    assert_alike(fleet, job_id, alone)
    assert fleet.service.records.get(job_id).attempt == 1
    assert (first.poll(), helper.poll()) == (None, None)


@in_full
@pytest.mark.parametrize("seconds", [2, 15])
def test_a_shared_job_outlives_redis_being_away(fleet: Fleet, two: Two, alone: str, seconds: int) -> None:
    job_id = submit_long(fleet)
    helper_of(fleet, two)
    fleet.proxy.cut()
    time.sleep(seconds)
    fleet.proxy.mend()
    assert_alike(fleet, job_id, alone)
    assert fleet.service.records.get(job_id).attempt == 1


@in_full
def test_a_canceled_job_stops_everywhere(fleet: Fleet, two: Two) -> None:
    job_id = submit_long(fleet)
    helper_of(fleet, two)
    horses = [fleet.horse_of(worker) for worker in two]
    fleet.cancel(job_id)
    assert fleet.ended(job_id).status is JobStatus.canceled
    wait_until(lambda: all(w["state"] == "idle" for w in fleet.service.records.workers()))
    fleet.assert_clean(job_id)
    assert all(alive(horse) for horse in horses)


def test_a_small_job_does_not_wait_for_a_long_one(fleet: Fleet, two: Two, alone: str) -> None:
    """Who helps makes way for it, and goes on afterwards."""
    long = submit_long(fleet)
    helper = helper_of(fleet, two)
    small = fleet.submit()
    assert fleet.ended(small).status is JobStatus.succeeded
    assert fleet.service.status(long) is JobStatus.processing
    assert_alike(fleet, long, alone)
    assert b'"how": "preempted"' in fleet.log_of(two[helper])


@in_full
def test_a_worker_that_would_do_it_otherwise_does_not_help(fleet: Fleet, alone: str) -> None:
    first = fleet.start()
    fleet.ready()
    other = fleet.start(VXL_TILE_PIXELS="524288")
    fleet.ready(2)
    for worker in (first, other):
        fleet.horse_of(worker)
    other.send_signal(signal.SIGSTOP)
    job_id = submit_long(fleet)
    wait_until(lambda: fleet.service.status(job_id) is JobStatus.processing)
    other.send_signal(signal.SIGCONT)
    wait_until(lambda: b'"overtaken"' in fleet.log_of(other), 60)
    assert_alike(fleet, job_id, alone)
    assert fleet.log_of(other).count(b'"helping"') == 1
