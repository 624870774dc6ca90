"""The system kills a horse for want of memory, as it does where a container's limit is reached."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from app.contract import JobStatus
from tests.faults.conftest import Fleet
from tests.faults.test_kill import assert_done
from tests.processes import alive, wait_until

LIMITS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}  # old and new
LIMIT = 8 << 20


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes may take LIMIT bytes more than they have when they join it."""
    for root, name in LIMITS.items():
        group = root / f"vxl-{uuid4().hex[:6]}"
        with suppress(OSError):
            group.mkdir()
            try:
                with (group / name).open("r+") as limit:  # else it is no memory controller
                    limit.write(str(LIMIT))
                yield group
                return
            finally:
                wait_until(lambda at=group: not (at / "cgroup.procs").read_text())  # type: ignore[misc]
                group.rmdir()
    pytest.skip("limiting memory needs privileges")


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_horse_that_is_killed_for_want_of_memory(
    fleet: Fleet, undisturbed: str, little_memory: Path, attempts: int
) -> None:
    """Its job goes on in another; where that was the last attempt it is told why."""
    worker = fleet.start(VXL_MAX_ATTEMPTS=str(attempts))
    fleet.ready()
    horse = fleet.horse_of(worker)
    (little_memory / "cgroup.procs").write_text(str(horse))
    job_id = fleet.submit()
    job = fleet.ended(job_id)
    assert not alive(horse)
    assert b"for want of memory" in fleet.log_of(worker)
    if attempts == 1:
        assert job.error is not None
        assert (job.status, job.error.code, job.error.retryable) == (JobStatus.failed, "out_of_memory", True)
        job_id = fleet.submit()
    assert_done(fleet, job_id, undisturbed, {1 if attempts == 1 else 2})
    assert worker.poll() is None
