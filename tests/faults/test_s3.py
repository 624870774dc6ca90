"""Files in S3: a server that speaks it, in a process of its own, behind a relay that can cut it off."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app.contract import JobStatus
from app.embedded_redis import EmbeddedRedis
from app.keys import result_key, upload_key
from app.settings import Settings
from tests.app.conftest import Server, assert_problem, running
from tests.faults.conftest import ALL, FRAMES, UPLOAD, WAIT_SECONDS, Fleet, clip, ending, in_full
from tests.faults.proxy import Proxy
from tests.faults.test_kill import assert_done, reach, steps_kept
from tests.processes import wait_until
from tests.worker.front_end import Service
from worker.demo import free_port

BUCKET = "clips"


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: made(port), 30)
        yield port
    finally:
        server.kill()
        server.wait()


def made(port: int) -> bool:
    """Whether the server is there, and has the bucket."""
    try:
        return httpx.put(f"http://127.0.0.1:{port}/{BUCKET}").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(s3_port) as relay:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield relay


@pytest.fixture
def fleet(s3: Proxy, redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> Iterator[Fleet]:
    url = f"s3://{BUCKET}/{tmp_path.name}"
    with (
        Proxy(redis_server.url) as proxy,
        ending(Fleet(Service(redis_client), proxy, tmp_path, store_url=url)) as fleet,
    ):
        fleet.store.put_file(upload_key(UPLOAD), clip(tmp_path))
        yield fleet


@pytest.fixture
def api(fleet: Fleet, redis_server: EmbeddedRedis) -> Iterator[Server]:
    settings = Settings(
        redis_url=redis_server.url, data_dir=fleet.data / "api", store_url=fleet.store_url, api_metrics_port=0
    )
    with running(settings) as server:
        yield server


def test_a_clip_goes_in_and_comes_back(fleet: Fleet, api: Server, undisturbed: str) -> None:
    """The very clip that comes back where files lie on a disk."""
    fleet.start()
    with httpx.Client(base_url=api.url, timeout=30) as client:
        upload = client.post("/v1/uploads", content=(fleet.data / "in.mp4").read_bytes()).json()
        assert upload["media"]["frames"] == FRAMES
        refused = client.post("/v1/uploads", content=b"no clip")
        assert refused.status_code == 415, refused.text
        assert len(fleet.store.files("uploads")) == 2, "what is refused does not stay"
        job = client.post("/v1/jobs", json={"source": {"upload_id": upload["id"]}, "task": "deblur"}).json()
        assert_done(fleet, job["id"], undisturbed, {1})
        whole = client.get(job["urls"]["output"])
        assert whole.content == b"".join(fleet.store.read(result_key(fleet.service.records.get(job["id"]), "output")))
        some = client.get(job["urls"]["output"], headers={"Range": "bytes=100-199"})
        assert (some.status_code, some.content) == (206, whole.content[100:200])
        again = client.get(job["urls"]["output"], headers={"If-None-Match": whole.headers["etag"]})
        assert again.status_code == 304
        assert client.delete(job["urls"]["self"]).status_code == 204
        assert fleet.store.files(f"jobs/{job['id']}") == []
        assert not list((fleet.data / "api" / "scratch").iterdir()), "copies made to look at go"


@in_full
def test_another_worker_goes_on_from_what_is_kept_there(fleet: Fleet, undisturbed: str) -> None:
    first = fleet.start()
    fleet.ready()
    fleet.horse_of(first)
    job_id = reach(fleet, "sampling")
    first.kill()
    first.wait()
    assert steps_kept(fleet, job_id) > 0
    second = fleet.start()
    assert_done(fleet, job_id, undisturbed, {2})
    assert b"checkpoint ignored" not in fleet.log_of(second)


@pytest.mark.parametrize("stage", ["starting", "sampling", "finishing"] if ALL else ["finishing"])
def test_a_job_outlives_s3_being_away(fleet: Fleet, s3: Proxy, undisturbed: str, stage: str) -> None:
    """Its clip is waited for, its checkpoints can be done without, its results are tried again."""
    worker = fleet.start()
    fleet.ready()
    fleet.horse_of(worker)
    job_id = reach(fleet, stage)
    s3.cut()
    fleet.proxy.release()
    told = {"starting": b"the store is away", "sampling": b"checkpoint not written", "finishing": b"the store is away"}
    wait_until(lambda: told[stage] in fleet.log_of(worker), WAIT_SECONDS)
    time.sleep(2)
    assert fleet.service.status(job_id) is not JobStatus.succeeded
    s3.mend()
    assert_done(fleet, job_id, undisturbed, {1})


@in_full
def test_a_job_that_waits_for_s3_stops_when_told_to(fleet: Fleet, s3: Proxy) -> None:
    """And its horse lives."""
    worker = fleet.start(VXL_CANCEL_GRACE_SECONDS="60")
    fleet.ready()
    horse = fleet.horse_of(worker)
    job_id = reach(fleet, "finishing")
    s3.cut()
    fleet.proxy.release()
    wait_until(lambda: b"the store is away" in fleet.log_of(worker), WAIT_SECONDS)
    fleet.service.cancel(job_id)
    assert fleet.ended(job_id).status is JobStatus.canceled
    assert fleet.horse_of(worker) == horse


def test_the_api_says_that_s3_is_away(fleet: Fleet, s3: Proxy, api: Server) -> None:
    clip = (fleet.data / "in.mp4").read_bytes()
    with httpx.Client(base_url=api.url, timeout=60) as client:
        s3.cut()
        assert_problem(client.post("/v1/uploads", content=clip), 503, "unavailable")
        problem = assert_problem(client.get("/readyz"), 503, "not_ready")
        assert "store" in {error["field"] for error in problem["errors"]}
        s3.mend()
        assert client.post("/v1/uploads", content=clip).status_code == 201
