"""What a housekeeper clears away, and what it leaves: real Redis, real files."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from redis import Redis

from app.contract import TASK, Job, JobStatus, MediaInfo, Upload
from app.ids import new_id
from app.keys import checkpoint_prefix, result_key, results_prefix, upload_key
from app.records import now
from app.settings import Settings
from tests.processes import wait_until
from tests.worker.front_end import Service
from worker import housekeeper
from worker.control import INTERNAL_ERROR
from worker.housekeeper import Housekeeper
from worker.ledger import Ledger
from worker.metrics import Metrics

HOURS = 3600.0


@pytest.fixture
def service(redis_client: Redis) -> Service:
    return Service(redis_client)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, heartbeat_seconds=0.01, lease_seconds=0.05, upload_ttl_seconds=3600)


@pytest.fixture
def employ(redis_client: Redis, settings: Settings) -> Callable[[], Housekeeper]:
    """A housekeeper that has not tidied yet."""
    metrics = Metrics("test", "0", "bundled")
    return lambda: Housekeeper(redis_client, settings, Ledger(redis_client, settings, metrics), new_id("worker"))


Employ = Callable[[], Housekeeper]


def put(path: Path, hours_old: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"clip")
    return age(path, hours_old)


def age(path: Path, hours_old: float) -> Path:
    then = time.time() - hours_old * HOURS
    os.utime(path, (then, then))
    return path


def result_of(job_id: str, settings: Settings) -> Path:
    return put(Path(settings.files) / results_prefix(job_id) / "1" / "output.mp4")


def upload_file(upload_id: str, settings: Settings, hours_old: float) -> Path:
    return put(Path(settings.files) / upload_key(upload_id), hours_old)


def scratch_of(job_id: str, settings: Settings) -> Path:
    directory = settings.scratch / f"{job_id}-ab_c12xy"
    put(directory / "frames" / "0.png")
    return directory


# --- jobs


def test_an_expired_job_goes_with_its_files(service: Service, settings: Settings, employ: Employ) -> None:
    job_id = service.submit()
    result = result_of(job_id, settings)
    service.end(job_id, expired_for=1)
    employ().tidy()
    assert not result.parent.exists()
    assert service.records.find(job_id) is None
    assert [key for key in service.redis.scan_iter("*") if job_id.encode() in key] == []
    assert service.redis.keys("vxl:jobs*") == []


def test_jobs_that_have_not_expired_stay(service: Service, settings: Settings, employ: Employ) -> None:
    live, kept, fresh, again = jobs = [service.submit() for _ in range(4)]
    service.end(kept)  # for ever
    service.end(fresh, expired_for=-60)
    service.end(again, expired_for=1)
    service.records.move(again, JobStatus.queued, completed_at=None, expires_at=None)
    results = [result_of(job_id, settings) for job_id in jobs]
    employ().tidy()
    assert all(path.exists() for path in results)
    assert [service.status(job_id) for job_id in jobs] == [
        JobStatus.queued,
        JobStatus.failed,
        JobStatus.failed,
        JobStatus.queued,
    ]
    assert live in service.records.live_ids()


def test_a_pass_is_bounded_and_the_next_goes_on(
    service: Service, employ: Employ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "PASS_SECONDS", 60)
    jobs = [service.submit() for _ in range(housekeeper.JOBS_PER_PASS + 1)]
    for job_id in jobs:
        service.end(job_id, expired_for=1)
    employ().tidy()
    assert len(list(service.records.newest())) == 1
    employ().tidy()
    assert list(service.records.newest()) == []


def test_a_housekeeper_tidies_at_most_once_a_minute(service: Service, employ: Employ) -> None:
    once = employ()
    once.tidy()
    service.end(job_id := service.submit(), expired_for=1)
    once.tidy()
    assert service.records.find(job_id) is not None


@pytest.fixture
def two(redis_client: Redis, settings: Settings) -> list[Housekeeper]:
    """With leases of a minute; the first is called so."""
    patient = settings.model_copy(update={"lease_seconds": 60})
    return [
        Housekeeper(redis_client, patient, Ledger(redis_client, patient, Metrics("test", "0", "bundled")), name)
        for name in ("first", "second")
    ]


def test_one_leads_until_it_stops_renewing(redis_client: Redis, two: list[Housekeeper]) -> None:
    first, second = two
    assert [keeper.leads() for keeper in (first, second, first)] == [True, False, True]
    assert 50_000 < redis_client.pttl(housekeeper.LEADER) <= 60_000
    redis_client.pexpire(housekeeper.LEADER, 1)
    time.sleep(0.05)
    assert [keeper.leads() for keeper in (second, first)] == [True, False]


def test_the_leader_makes_way_when_it_goes(redis_client: Redis, two: list[Housekeeper]) -> None:
    first, second = two
    first.start()
    wait_until(lambda: redis_client.get(housekeeper.LEADER) == b"first")
    assert not second.leads()
    first.stop()
    assert second.leads()


def test_many_housekeepers_may_tidy_at_once(service: Service, settings: Settings, employ: Employ) -> None:
    for _ in range(20):
        result_of(job_id := service.submit(), settings)
        service.end(job_id, expired_for=1)
        upload_file(new_id("up"), settings, hours_old=2)
        scratch_of(job_id, settings)
    done: list[bool] = []

    def tidy(keeper: Housekeeper) -> None:
        keeper.tidy()
        keeper.tidy_here()
        done.append(True)

    threads = [Thread(target=tidy, args=(employ(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert list(service.records.newest()) == []
    assert [path for path in settings.data_dir.rglob("*") if path.is_file()] == []


# --- uploads


def test_an_upload_goes_once_nobody_needs_it(service: Service, settings: Settings, employ: Employ) -> None:
    needed, kept, orphan = new_id("up"), new_id("up"), new_id("up")
    job_id = service.submit(upload_id=needed)
    media = MediaInfo(
        width=96, height=64, frames=8, frame_rate="25/1", duration_seconds=0.32, codec="h264", pixel_format="yuv420p"
    )
    expires = now() + timedelta(hours=1)
    service.records.put_upload(Upload(id=kept, bytes=4, sha256="", media=media, created_at=now(), expires_at=expires))
    files = [upload_file(upload_id, settings, hours_old=2) for upload_id in (needed, kept, orphan)]
    employ().tidy()
    assert [path.exists() for path in files] == [True, True, False]
    service.end(job_id)
    employ().tidy()
    assert [path.exists() for path in files] == [False, True, False]


def test_an_upload_whose_record_may_come_back_stays(
    redis_client: Redis, service: Service, settings: Settings, employ: Employ
) -> None:
    """Redis was emptied, say by a restart without its file; within its time the upload is still somebody's."""
    service.submit(upload_id=(young := new_id("up")))
    files = [upload_file(young, settings, hours_old=0.9), upload_file(new_id("up"), settings, hours_old=1.1)]
    redis_client.flushdb()
    employ().tidy()
    assert [path.exists() for path in files] == [True, False]


def test_an_upload_in_progress_is_left_alone(settings: Settings, employ: Employ) -> None:
    whole, part = upload_file(new_id("up"), settings, 0.9), upload_file(f"{new_id('up')}#1", settings, 2)
    dead = upload_file(f"{new_id('up')}#1", settings, 25)
    employ().tidy()
    assert (whole.exists(), part.exists(), dead.exists()) == (True, True, False)


# --- scratch


def test_scratch_goes_once_its_job_has_ended(service: Service, settings: Settings, employ: Employ) -> None:
    live, ended, unknown = service.submit(), service.submit(), new_id("job")
    service.end(ended)
    found = [scratch_of(job_id, settings) for job_id in (live, ended, unknown)]
    other = put(settings.scratch / "uploads_up_x")
    employ().tidy_here()
    assert [path.exists() for path in found] == [True, False, False]
    assert other.exists()


def test_what_cannot_be_deleted_does_not_stop_the_rest(service: Service, settings: Settings, employ: Employ) -> None:
    service.end(stuck := service.submit(), expired_for=2)
    service.end(other := service.submit(), expired_for=1)
    # A link that leads back to itself: nothing under it can be listed.
    loop = Path(settings.files) / "jobs" / stuck
    loop.parent.mkdir(parents=True)
    loop.symlink_to(stuck)
    employ().tidy()
    assert service.records.find(stuck) is not None
    assert service.records.find(other) is None


# --- results and checkpoints ---------------------------------------------------------------------------------------


def test_a_job_that_is_lost_on_its_way_is_found_by_a_housekeeper_that_is_new(service: Service, employ: Employ) -> None:
    """What it was taken by is gone, and that one kept house: it is known since when it is on its way."""
    job_id = service.submit()
    taker = employ().ledger
    assert taker.take(frozenset({TASK}))
    time.sleep(1.1)  # more than half a lease, counted in whole seconds
    employ().find_missing()
    assert service.redis.lrange("rq:queue:normal", 0, -1) == [job_id.encode()]


def test_no_pass_reads_a_job_that_has_ended(service: Service, employ: Employ) -> None:
    """Of all jobs ever made, it looks but at those that live: a record that cannot be read shows it."""
    service.end(old := service.submit())
    service.redis.set(f"vxl:job:{old}", "from another time")
    nowhere = service.submit()
    service.redis.delete("rq:queue:normal")
    keeper = employ()
    keeper.sweep()
    keeper.find_missing()
    time.sleep(0.1)  # twice found missing, half a lease apart
    keeper.find_missing()
    assert service.redis.lrange("rq:queue:normal", 0, -1) == [nowhere.encode()]


def ended(service: Service, status: JobStatus) -> Job:
    job_id = service.submit()
    for to in (JobStatus.starting, JobStatus.processing, JobStatus.finalizing, status):
        job = service.records.move(job_id, to)
    return job


def made(job: Job, settings: Settings, hours_old: float = 0) -> tuple[Path, Path]:
    """The output of a job, and that of an attempt that another took over from."""
    own = put(Path(settings.files) / result_key(job, "output"), hours_old)
    return own, put(own.parent.with_name("19700101T000000000000") / own.name, hours_old)


def test_results_without_a_record_go_once_their_time_is_over(
    service: Service, settings: Settings, employ: Employ
) -> None:
    """A worker that another took over from may put files after their job was purged."""
    week = settings.result_ttl_seconds / HOURS
    old, new = (result_of(new_id("job"), settings) for _ in range(2))
    kept, other = made(ended(service, JobStatus.succeeded), settings, week + 1)
    age(old, week + 1)
    employ().tidy()
    assert [path.exists() for path in (old, new, kept, other)] == [False, True, True, False]


@pytest.mark.parametrize(("status", "kept"), [(JobStatus.succeeded, True), (JobStatus.failed, False)])
def test_what_came_to_nothing_goes_when_a_job_ends(
    service: Service, settings: Settings, employ: Employ, status: JobStatus, kept: bool
) -> None:
    job = ended(service, status)
    own, other = made(job, settings)
    employ().forget(job.id)
    assert (own.exists(), other.exists()) == (kept, False)


def test_a_job_that_is_tried_again_keeps_what_it_has(service: Service, settings: Settings, employ: Employ) -> None:
    """Also once it has succeeded, by the time that somebody clears up after its failure."""
    job = ended(service, JobStatus.failed)
    service.records.move(job.id, JobStatus.queued)
    scratch = scratch_of(job.id, settings)
    kept = put(Path(settings.files) / checkpoint_prefix(job.id) / "steps-0.json")
    employ().forget(job.id)
    assert (scratch.exists(), kept.exists()) == (True, True)
    for to in (JobStatus.starting, JobStatus.processing, JobStatus.finalizing, JobStatus.succeeded):
        job = service.records.move(job.id, to)
    output, _ = made(job, settings)
    employ().forget(job.id)
    assert output.exists()


def test_checkpoints_go_with_their_job(service: Service, settings: Settings, employ: Employ) -> None:
    """At once where a worker ends it, and within a minute where somebody else does."""
    kept = {
        job_id: put(Path(settings.files) / checkpoint_prefix(job_id) / "steps-0.json")
        for job_id in (service.submit() for _ in range(3))
    }
    failed, gone, live = kept
    keeper = employ()
    keeper.ledger.failed(failed, INTERNAL_ERROR, None)
    assert keeper._ended.get_nowait() == failed
    keeper.forget(failed)
    assert [path.exists() for path in kept.values()] == [False, True, True]
    service.end(gone)
    keeper.tidy()
    assert [path.exists() for path in kept.values()] == [False, False, True]
    assert service.status(live) is JobStatus.queued
