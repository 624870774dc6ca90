"""Redis away, slow, restarted; the store full: jobs in flight go on, and every job ends once."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app import embedded_redis
from app.contract import JobStatus
from app.keys import upload_key
from app.store import Store
from tests.faults.conftest import ALL, UPLOAD, Fleet, clip, ending
from tests.faults.proxy import Proxy
from tests.faults.test_kill import assert_done, reach
from tests.processes import alive, wait_until
from tests.worker.front_end import Service

SECONDS = (2, 15, 60) if ALL else (2,)


@pytest.mark.parametrize("stage", ["inverting", "sampling", "finishing"] if ALL else ["sampling"])
@pytest.mark.parametrize("seconds", SECONDS)
def test_a_job_outlives_redis_being_away(fleet: Fleet, undisturbed: str, stage: str, seconds: int) -> None:
    """Longer than its lease, too: nobody else could take it, as nobody had Redis."""
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    fleet.proxy.cut()
    fleet.proxy.release()
    time.sleep(seconds)
    fleet.proxy.mend()
    assert_done(fleet, job_id, undisturbed, {1})
    assert worker.poll() is None
    assert_done(fleet, fleet.submit(), undisturbed, {1})


@pytest.mark.parametrize("answer", ["refuses", "hangs"] if ALL else ["hangs"])
def test_a_worker_told_to_go_while_redis_is_away_goes(fleet: Fleet, undisturbed: str, answer: str) -> None:
    """It cannot give its job back; others find that once its lease is over."""
    worker = fleet.start(VXL_LEASE_SECONDS="5")
    fleet.ready()
    horse = fleet.horse_of(worker)
    job_id = reach(fleet, "sampling")
    if answer == "refuses":
        fleet.proxy.cut()
    else:
        fleet.proxy.delay = 60
    time.sleep(1)
    worker.terminate()
    assert worker.wait(12) == 0
    assert not alive(horse)
    fleet.proxy.mend()
    fleet.proxy.delay = 0
    fleet.start()
    assert_done(fleet, job_id, undisturbed, {2})


def test_a_worker_cut_off_alone_loses_its_job_to_another(fleet: Fleet, undisturbed: str) -> None:
    """For longer than its lease, while the other has Redis: both may compute, one ends the job."""
    first = fleet.start()
    fleet.ready()
    fleet.horse_of(first)
    job_id = reach(fleet, "sampling")
    fleet.proxy.cut()
    second = fleet.start(fleet.direct)
    wait_until(lambda: fleet.service.records.get(job_id).attempt == 2, 60)
    fleet.horse_of(second)
    fleet.proxy.mend()
    assert_done(fleet, job_id, undisturbed, {2})


def test_a_slow_redis_slows_nothing_but_itself(fleet: Fleet, undisturbed: str) -> None:
    fleet.proxy.delay = 0.2
    fleet.start()
    assert_done(fleet, fleet.submit(), undisturbed, {1})


@pytest.mark.parametrize("stage", ["taken", "starting", "sampling", "finishing"] if ALL else ["finishing"])
def test_a_redis_that_takes_no_writes_costs_no_attempt(fleet: Fleet, undisturbed: str, stage: str) -> None:
    """As where its disk is full or its replica gone: it answers all the time."""
    redis = fleet.service.redis
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    redis.config_set("min-replicas-to-write", 1)
    try:
        fleet.proxy.release()
        time.sleep(5)
    finally:
        redis.config_set("min-replicas-to-write", 0)
    assert_done(fleet, job_id, undisturbed, {1})
    assert worker.poll() is None


def test_a_restart_of_redis_loses_nothing(tmp_path: Path, undisturbed: str) -> None:
    """Killed outright, with a job under way and one that waits; what it wrote down is there again."""
    Store(str(tmp_path / "files")).put_file(upload_key(UPLOAD), clip(tmp_path))
    with embedded_redis.start(tmp_path) as server:
        url = server.url
        with (
            Redis.from_url(url) as client,
            Proxy(url) as proxy,
            ending(Fleet(Service(client), proxy, tmp_path)) as fleet,
        ):
            worker = fleet.start()
            fleet.ready()
            fleet.horse_of(worker)
            jobs = [reach(fleet, "sampling"), fleet.submit()]
            time.sleep(1.5)  # it writes down once a second
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            time.sleep(2)
            with embedded_redis.start(tmp_path) as again:
                assert again.url == url
                for job_id in jobs:
                    assert_done(fleet, job_id, undisturbed, {1})
                worker.terminate()
                assert worker.wait(20) == 0


def test_a_redis_that_hangs_stops_nothing(tmp_path: Path, undisturbed: str) -> None:
    """It neither answers nor refuses for ten seconds: each try takes as long as clients wait."""
    Store(str(tmp_path / "files")).put_file(upload_key(UPLOAD), clip(tmp_path))
    with (
        embedded_redis.start(tmp_path) as server,
        Redis.from_url(server.url) as client,
        Proxy(server.url) as proxy,
        ending(Fleet(Service(client), proxy, tmp_path)) as fleet,
    ):
        worker = fleet.start()
        fleet.ready()
        fleet.horse_of(worker)
        job_id = reach(fleet, "sampling")
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(10)
        server.process.send_signal(signal.SIGCONT)
        assert_done(fleet, job_id, undisturbed, {1})
        worker.terminate()
        assert worker.wait(20) == 0


def test_a_store_that_is_away_is_waited_for(fleet: Fleet, undisturbed: str) -> None:
    fleet.start()
    fleet.ready()
    job_id = reach(fleet, "finishing")
    files = (fleet.data / "files").rename(fleet.data / "elsewhere")
    (fleet.data / "files").write_text("no directory")
    fleet.proxy.release()
    wait_until(lambda: b"the store is away" in fleet.log_of(fleet.started[0]))
    (fleet.data / "files").unlink()
    files.rename(fleet.data / "files")
    assert_done(fleet, job_id, undisturbed, {1})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs privileges")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_told_and_nothing_half_written_is_shown(
    fleet: Fleet, undisturbed: str, small_disk: Path
) -> None:
    shutil.move(fleet.data / "files", small_disk / "files")
    fleet.data = small_disk
    fleet.start()
    fleet.ready()
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - (1 << 14)))
    job = fleet.ended(fleet.submit())
    assert job.error is not None
    assert (job.status, job.error.code, job.error.retryable) == (JobStatus.failed, "storage_full", True)
    wait_until(lambda: fleet.store.files("jobs") == [])
    filler.unlink()
    assert_done(fleet, fleet.submit(), undisturbed, {1})
