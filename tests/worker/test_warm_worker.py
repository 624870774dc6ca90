"""The supervised warm horse: real Redis, real processes, real signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rq import Queue

from app import embedded_redis
from app.contract import TASK, JobStatus
from app.embedded_redis import EmbeddedRedis
from app.records import now
from tests.processes import alive, wait_until
from tests.worker.front_end import Service

ROOT = Path(__file__).parents[2]
FAST = {
    "VXL_HEARTBEAT_SECONDS": "0.5",
    "VXL_LEASE_SECONDS": "3",
    "VXL_CANCEL_GRACE_SECONDS": "1",
    "VXL_DRAIN_SECONDS": "1",
    "VXL_STALL_SECONDS": "20",
    "VXL_METRICS_PORT": "0",
}
LONG = 1000  # steps: more than any test waits for

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def service(redis_client: Redis) -> Service:
    return Service(redis_client)


@pytest.fixture
def start(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> Iterator[Start]:
    """Starts workers with the fake task, and ends those that are left."""
    started: list[subprocess.Popen[bytes]] = []

    def one(**settings: str) -> subprocess.Popen[bytes]:
        own = {"VXL_REDIS_URL": redis_server.url, "VXL_DATA_DIR": str(tmp_path / "data")}
        environment = os.environ | own | FAST | settings
        worker = subprocess.Popen([sys.executable, "-m", "tests.worker.fake_horse"], cwd=ROOT, env=environment)
        started.append(worker)
        return worker

    yield one
    for worker in started:
        worker.kill()
        worker.wait()


def test_two_jobs_load_the_model_once(service: Service, start: Start) -> None:
    start()
    jobs = [service.submit(), service.submit()]
    for job_id in jobs:
        assert service.wait_for(job_id, JobStatus.succeeded).attempt == 1
    assert service.redis.get("test:loads") == b"1"
    assert service.pids(jobs[0]) == service.pids(jobs[1])
    wait_until(lambda: not service.leftovers())


def test_higher_queues_go_first(service: Service, start: Start) -> None:
    low, normal, high = (service.submit(priority) for priority in ("low", "normal", "high"))
    start()
    service.wait_for(low, JobStatus.succeeded)
    ended = {job_id: service.records.get(job_id).completed_at or now() for job_id in (high, normal, low)}
    assert sorted(ended, key=lambda job_id: ended[job_id]) == [high, normal, low]


def test_cancel_leaves_the_horse_warm(service: Service, start: Start) -> None:
    start()
    first, second = service.submit(steps=LONG), service.submit()
    service.wait_for_start(first)
    service.cancel(first)
    canceled = service.wait_for(first, JobStatus.canceled)
    assert canceled.completed_at is not None
    assert canceled.expires_at is not None
    service.wait_for(second, JobStatus.succeeded)
    assert service.pids(first) == service.pids(second)


def test_a_task_deaf_to_cancel_is_killed(service: Service, start: Start) -> None:
    start()
    deaf, after = service.submit(do="be deaf", steps=LONG), service.submit()
    service.wait_for_start(deaf)
    service.cancel(deaf)
    service.wait_for(deaf, JobStatus.canceled)
    service.wait_for(after, JobStatus.succeeded)
    assert service.pids(after) != service.pids(deaf)


def test_a_job_past_its_deadline_is_canceled(service: Service, start: Start) -> None:
    start()
    service.wait_for(service.submit(), JobStatus.succeeded)
    job_id = service.submit(steps=LONG, cancel_after=2)
    service.wait_for_start(job_id)
    service.wait_for(job_id, JobStatus.canceled)


def test_a_job_past_its_deadline_does_not_start(service: Service, start: Start) -> None:
    job_id = service.submit(cancel_after=1)
    time.sleep(1)
    start()
    expired = service.wait_for(job_id, JobStatus.expired)
    assert expired.error is not None
    assert service.pids(job_id) == []


def test_failures_are_told_and_causes_are_not(service: Service, start: Start) -> None:
    start()
    stated, internal, after = service.submit(do="fail"), service.submit(do="raise"), service.submit()
    error = service.wait_for(stated, JobStatus.failed).error
    assert error is not None
    assert (error.code, error.retryable) == ("out_of_memory", True)
    error = service.wait_for(internal, JobStatus.failed).error
    assert error is not None
    assert error.code == "internal_error"
    assert "secret" not in error.detail
    service.wait_for(after, JobStatus.succeeded)
    assert len({*service.pids(stated), *service.pids(internal), *service.pids(after)}) == 1


def test_a_killed_horse_is_replaced_and_the_job_done(service: Service, start: Start) -> None:
    start()
    job_id = service.submit(steps=20)
    os.kill(service.wait_for_start(job_id), signal.SIGKILL)
    assert service.wait_for(job_id, JobStatus.succeeded).attempt == 2
    assert len(set(service.pids(job_id))) == 2


def test_a_horse_killed_between_jobs_is_replaced(service: Service, start: Start) -> None:
    start()
    first = service.submit()
    service.wait_for(first, JobStatus.succeeded)
    os.kill(service.pids(first)[0], signal.SIGKILL)
    second = service.submit()
    assert service.wait_for(second, JobStatus.succeeded).attempt <= 2


def test_a_lost_device_and_a_hang_cost_an_attempt_each(service: Service, start: Start) -> None:
    start(VXL_STALL_SECONDS="4")
    lost, hung = service.submit(do="lose the device once"), service.submit(do="hang once")
    assert service.wait_for(lost, JobStatus.succeeded).attempt == 2
    assert service.wait_for(hung, JobStatus.succeeded).attempt == 2
    assert len({*service.pids(lost), *service.pids(hung)}) == 3


def test_a_worker_without_its_device_says_so(service: Service, start: Start) -> None:
    start()
    wait_until(lambda: [w["state"] for w in service.records.workers()] == ["idle"])
    service.redis.set("test:slow", 3)  # the next horse takes its time
    job_id = service.submit(do="lose the device once")
    wait_until(
        lambda: (
            [(w["state"], w["reason"]) for w in service.records.workers()]
            == [("defunct", "it lost its device (sticky)")]
        )
    )
    service.wait_for(job_id, JobStatus.succeeded)
    wait_until(lambda: [w["state"] for w in service.records.workers()] == ["idle"])


def test_a_poison_job_fails_and_the_worker_lives(service: Service, start: Start) -> None:
    worker = start()
    poison, after = service.submit(do="segfault"), service.submit()
    failed = service.wait_for(poison, JobStatus.failed)
    assert failed.error is not None
    assert (failed.error.code, failed.attempt) == ("worker_lost", 3)
    service.wait_for(after, JobStatus.succeeded)
    assert worker.poll() is None


def test_sigterm_gives_the_job_back(service: Service, start: Start) -> None:
    worker = start()
    job_id = service.submit(steps=LONG)
    horse = service.wait_for_start(job_id)
    behind = service.submit()
    worker.terminate()
    worker.terminate()  # twice, as pools and impatient people do
    assert worker.wait(20) == 0
    assert service.records.get(job_id).attempt == 0
    assert service.status(job_id) is JobStatus.queued
    assert service.redis.lrange("rq:queue:normal", 0, -1) == [job_id.encode(), behind.encode()]
    wait_until(lambda: not alive(horse))
    assert service.records.workers() == []
    # And the next worker takes it from there.
    start()
    service.wait_for_start(job_id, times=2)
    service.cancel(job_id)
    service.wait_for(behind, JobStatus.succeeded)


def test_sigterm_kills_a_deaf_task_and_gives_its_job_back(service: Service, start: Start) -> None:
    worker = start()
    job_id = service.submit(do="be deaf", steps=LONG)
    horse = service.wait_for_start(job_id)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(20) == 0
    assert not alive(horse)
    assert (service.status(job_id), service.records.get(job_id).attempt) == (JobStatus.queued, 0)
    assert service.redis.lrange("rq:queue:normal", 0, -1) == [job_id.encode()]


def test_a_worker_without_time_to_drain_settles_its_jobs(service: Service, start: Start) -> None:
    worker = start(VXL_DRAIN_SECONDS="0")
    job_id = service.submit(do="fail")
    failed = service.wait_for(job_id, JobStatus.failed)
    assert failed.error is not None
    assert (failed.error.code, failed.attempt) == ("out_of_memory", 1)
    # Nor does it leave a job to its lease when it goes.
    job_id = service.submit(steps=LONG)
    service.wait_for_start(job_id)
    worker.terminate()
    assert worker.wait(20) == 0
    assert (service.status(job_id), service.records.get(job_id).attempt) == (JobStatus.queued, 0)


def test_a_job_is_settled_after_an_outage_without_time_to_drain(tmp_path: Path, start: Start) -> None:
    """Only a worker told to stop gives up: this one waits for Redis as long as it takes."""
    with embedded_redis.start(tmp_path) as server:
        start(VXL_REDIS_URL=server.url, VXL_DRAIN_SECONDS="0", VXL_LEASE_SECONDS="60")
        with Redis.from_url(server.url) as client:
            job_id = Service(client).submit(do="be deaf", steps=LONG)
            horse = Service(client).wait_for_start(job_id)
    os.kill(horse, signal.SIGKILL)
    time.sleep(1.5)
    with embedded_redis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        service = Service(client)
        service.wait_for_start(job_id, times=2)  # long before its lease would end
        service.cancel(job_id)
        service.wait_for(job_id, JobStatus.canceled)


def test_an_idle_worker_clears_away_what_has_expired(service: Service, start: Start, tmp_path: Path) -> None:
    result = tmp_path / "data" / "files" / "jobs" / (job_id := service.submit()) / "output.mp4"
    result.parent.mkdir(parents=True)
    result.write_bytes(b"clip")
    service.end(job_id, expired_for=1)
    start()
    wait_until(lambda: service.records.find(job_id) is None)
    assert not result.exists()


def test_another_worker_takes_over_from_a_killed_one(service: Service, start: Start) -> None:
    first = start()
    job_id = service.submit(steps=40)
    horse = service.wait_for_start(job_id)
    first.kill()
    wait_until(lambda: not alive(horse))
    start()
    assert service.wait_for(job_id, JobStatus.succeeded).attempt == 2


def test_a_job_lost_between_queue_and_worker_is_found(service: Service, start: Start) -> None:
    job_id = service.submit()
    service.redis.lmove("rq:queue:normal", "rq:queue:normal:intermediate")
    start(VXL_LEASE_SECONDS="1", VXL_HEARTBEAT_SECONDS="0.3")
    service.wait_for(job_id, JobStatus.succeeded)
    wait_until(lambda: not service.leftovers())


def test_only_the_allowed_function_is_run(service: Service, start: Start, tmp_path: Path) -> None:
    queue = Queue("normal", connection=service.redis, serializer="json")
    evil = queue.enqueue("os.system", f"touch {tmp_path}/was-here")
    other = service.submit()
    queue.enqueue(TASK, "another", job_id=other)
    after = service.submit()
    start()
    service.wait_for(after, JobStatus.succeeded)
    assert queue.fetch_job(evil.id) is None
    assert not (tmp_path / "was-here").exists()
    assert service.status(other) is JobStatus.failed
    assert service.pids(other) == []


def test_metrics_and_state_are_there_to_see(service: Service, start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start(VXL_METRICS_PORT=str(port))

    def sample(name: str, **labels: str) -> float | None:
        """The first sample of this name with these labels among its own."""
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except URLError:
            return None
        samples = (sample for family in families for sample in family.samples)
        return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), None)

    job_id = service.submit(steps=LONG)
    service.wait_for_start(job_id)
    wait_until(lambda: sample("visionxl_worker_state", state="busy", gpu="cpu") == 1)
    assert sample("visionxl_worker_state", state="idle") == 0
    assert [(w["state"], w["job_id"], w["device"]) for w in service.records.workers()] == [("busy", job_id, "cpu")]
    wait_until(lambda: (sample("visionxl_frames_processed_total", task="deblur") or 0) > 3)
    service.cancel(job_id)
    service.wait_for(job_id, JobStatus.canceled)
    wait_until(lambda: sample("visionxl_worker_state", state="idle") == 1)
    assert sample("visionxl_jobs_finished_total", task="deblur", status="canceled", error_code="") == 1
    assert sample("visionxl_job_duration_seconds_count", task="deblur", status="canceled") == 1
    assert sample("visionxl_cancel_latency_seconds_count") == 1
    assert sample("visionxl_job_queue_wait_seconds_count", priority="normal") == 1
    assert (sample("visionxl_frame_duration_seconds_count", resolution="96x64", gpu="cpu") or 0) > 3
    assert sample("visionxl_build_info", model="bundled") == 1
    assert (sample("visionxl_worker_last_heartbeat_timestamp_seconds") or 0) > time.time() - 30


def test_a_model_that_will_not_load_is_tried_again(service: Service, start: Start) -> None:
    service.redis.set("test:broken", 1)
    start()
    job_id = service.submit()
    wait_until(
        lambda: (
            [(w["state"], w["reason"]) for w in service.records.workers()]
            == [("unhealthy", "RuntimeError: no such model")]
        )
    )
    service.wait_for(job_id, JobStatus.succeeded)
    assert service.redis.get("test:loads") == b"2"
    wait_until(lambda: [w["state"] for w in service.records.workers()] == ["idle"])


def test_a_job_outlives_an_outage_of_redis(tmp_path: Path, start: Start) -> None:
    with embedded_redis.start(tmp_path) as server:
        worker = start(VXL_REDIS_URL=server.url, VXL_LEASE_SECONDS="2")
        with Redis.from_url(server.url) as client:
            job_id = Service(client).submit(steps=100)
            Service(client).wait_for_start(job_id)
    time.sleep(3)  # longer than the lease
    with embedded_redis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        service = Service(client)
        assert service.wait_for(job_id, JobStatus.succeeded).attempt == 1
        assert len(service.pids(job_id)) == 1
        wait_until(lambda: not service.leftovers())
        assert worker.poll() is None
