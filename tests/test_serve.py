"""`vxl serve` beyond its everyday: another Redis, and being killed outright."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app.embedded_redis import EmbeddedRedis
from app.serve import stop_seconds
from app.settings import Settings
from tests.processes import alive, descendants, wait_until
from worker.demo import await_ready, free_port


@contextmanager
def serving(directory: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    own = {"VXL_PORT": str(port), "VXL_DATA_DIR": str(directory), "VXL_METRICS_PORT": "0", "VXL_API_METRICS_PORT": "0"}
    directory.mkdir(exist_ok=True)
    log = directory / "service.log"
    with log.open("wb") as lines:
        command = [sys.executable, "-m", "app.cli", "serve"]
        process = subprocess.Popen(command, env=os.environ | own | settings, stdout=lines, stderr=lines)
    try:
        await_ready(f"http://127.0.0.1:{port}", process, log)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_redis_that_is_named_is_used(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> None:
    with serving(tmp_path / "data", VXL_REDIS_URL=redis_server.url) as (process, url):
        assert list(redis_client.scan_iter("vxl:worker:*"))
        assert not (tmp_path / "data" / "redis").exists()
        assert httpx.get(f"{url}/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert redis_client.ping()


def test_killed_outright_it_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as (process, url):
        upload = httpx.get(f"{url}/v1/uploads/up_{26 * '0'}")
        assert upload.status_code == 404
        family = descendants(process.pid)
        assert len(family) >= 4  # Redis, API, worker, horse
        process.kill()
        wait_until(lambda: not any(alive(pid) for pid in family))
    with serving(tmp_path / "data") as (_, url):
        assert httpx.get(f"{url}/livez").status_code == 200


def test_where_its_redis_ends_everything_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as (process, _):
        family = descendants(process.pid)
        [redis] = [pid for pid in family if "redis" in Path(f"/proc/{pid}/comm").read_text()]
        os.kill(redis, signal.SIGKILL)
        assert process.wait(60) == 1
        wait_until(lambda: not any(alive(pid) for pid in family))
    assert "the embedded Redis ended" in (tmp_path / "data" / "service.log").read_text()


@pytest.mark.parametrize(("drain", "granted"), [(100, 110), (0, 30)])
def test_a_worker_that_drains_is_not_cut_short(drain: float, granted: float) -> None:
    """Nor the API, where the worker has no time at all."""
    assert stop_seconds(Settings(drain_seconds=drain)) == granted
