"""kill -9 and SIGTERM at every stage of a job: it ends once, with the result it would have had, and leaves nothing."""

import json
import os
import signal

import pytest

from app.contract import RESULT_FILES, JobStatus
from app.keys import checkpoint_prefix, result_key
from tests.faults.conftest import ALL, WAIT_SECONDS, Fleet
from tests.processes import wait_until

# What a worker is about to send to Redis, or (True) has just sent without getting the answer.
STAGES = {
    "before taking": (b"LMOVE", False),
    "taken": (b"HGETALL\r\n[^\r]*\r\nrq:job:", False),
    "starting": (b'"status":"starting"', True),
    "inverting": (b'"status":"processing"', True),
    "sampling": None,
    "finishing": (b'"status":"finalizing"', True),
    "writing the result": (b'"status":"succeeded"', False),
    "written": (b'"status":"succeeded"', True),
}
REDUCED = {"taken", "sampling", "writing the result"}
EACH = [stage for stage in STAGES if ALL or stage in REDUCED]


def reach(fleet: Fleet, stage: str) -> str:
    """A job that has come as far as that; a worker is there."""
    wanted = STAGES[stage]
    if wanted is None:
        job_id = fleet.submit()
        wait_until(lambda: steps_kept(fleet, job_id) > 0, WAIT_SECONDS)
        return job_id
    trap = fleet.proxy.set(*wanted)
    if stage == "before taking":
        assert trap.sprung.wait(WAIT_SECONDS)
        return fleet.submit()
    job_id = fleet.submit()
    assert trap.sprung.wait(WAIT_SECONDS)
    return job_id


def steps_kept(fleet: Fleet, job_id: str) -> int:
    try:
        kept = json.loads(fleet.store.get_bytes(f"{checkpoint_prefix(job_id)}/steps-0.json"))
    except FileNotFoundError:
        return 0
    return int(kept["told"]["steps"])


def assert_done(fleet: Fleet, job_id: str, undisturbed: str, attempts: set[int]) -> None:
    job = fleet.ended(job_id)
    assert job.status is JobStatus.succeeded, job.error
    assert job.attempt in attempts
    assert fleet.output(job_id) == undisturbed
    assert fleet.ends(job_id) == ["succeeded"]
    fleet.assert_clean(job_id)


@pytest.mark.parametrize("stage", EACH)
def test_a_killed_worker_is_survived_by_its_job(fleet: Fleet, undisturbed: str, stage: str) -> None:
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    worker.kill()
    worker.wait()
    fleet.proxy.release(drop=True)
    fleet.start()
    assert_done(fleet, job_id, undisturbed, {1} if stage in ("before taking", "written") else {1, 2})


@pytest.mark.parametrize(
    ("stage", "number"),
    [*((stage, signal.SIGKILL) for stage in EACH), *([("sampling", signal.SIGSEGV)] if ALL else [])],
)
def test_a_killed_horse_is_survived_by_its_job(
    fleet: Fleet, undisturbed: str, stage: str, number: signal.Signals
) -> None:
    worker = fleet.start()
    fleet.ready()
    horse = fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    os.kill(horse, number)
    fleet.proxy.release(drop=True)
    assert_done(fleet, job_id, undisturbed, {1, 2})
    assert worker.poll() is None


@pytest.mark.parametrize("stage", ["starting", "inverting", "finishing", "written"] if ALL else ["written"])
def test_a_change_that_got_through_without_its_answer_is_no_loss(fleet: Fleet, undisturbed: str, stage: str) -> None:
    """The connection alone ends; Redis is there again at once, as behind what balances or takes over."""
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    fleet.proxy.release(drop=True)
    assert_done(fleet, job_id, undisturbed, {1})
    assert {file.key for file in fleet.store.files("jobs")} == {
        result_key(fleet.service.records.get(job_id), name) for name in RESULT_FILES
    }


@pytest.mark.parametrize("times", [1, 2] if ALL else [2])
@pytest.mark.parametrize("stage", EACH)
def test_a_worker_told_to_go_gives_its_job_back(fleet: Fleet, undisturbed: str, stage: str, times: int) -> None:
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    for _ in range(times):
        worker.terminate()
    fleet.proxy.release()
    assert worker.wait(20) == 0
    if fleet.service.status(job_id) is not JobStatus.succeeded:
        assert (fleet.service.status(job_id), fleet.service.records.get(job_id).attempt) == (JobStatus.queued, 0)
        assert fleet.service.redis.lrange("rq:queue:normal", 0, -1) == [job_id.encode()]
        fleet.start()
    assert_done(fleet, job_id, undisturbed, {1})
