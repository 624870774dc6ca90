"""`python -m app.main`: the process that serves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app.embedded_redis import EmbeddedRedis
from app.main import create_app
from app.settings import Settings
from tests import media


def test_it_serves_and_stops_at_once(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> None:
    """Even while a client follows a job, whose stream then ends whole."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"REDIS_URL": redis_server.url, "DATA_DIR": str(tmp_path), "PORT": str(port), "API_METRICS_PORT": "0"}
    environment = os.environ | {f"VXL_{name}": value for name, value in settings.items()} | {"VXL_LOG_FORMAT": "json"}
    process = subprocess.Popen([sys.executable, "-m", "app.main"], env=environment, stderr=subprocess.PIPE)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
        await_live(api, process)
        content = media.clip(tmp_path / "clip.mp4").read_bytes()
        upload_id = api.post("/v1/uploads", content=content).json()["id"]
        job = api.post("/v1/jobs", json={"source": {"upload_id": upload_id}, "task": "deblur"}).json()
        with api.stream("GET", job["urls"]["events"]) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: status"
            stopped = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert "event: final" not in list(lines)
        _, log = process.communicate(timeout=30)
    assert time.monotonic() - stopped < 5
    entries = [json.loads(line) for line in log.splitlines()]
    requests = [entry for entry in entries if entry["event"] == "request"]
    assert [entry["status"] for entry in requests] == [201, 202, 200]
    assert all(entry["request_id"].startswith("req_") for entry in requests)
    assert {entry["level"] for entry in entries} == {"info"}


def test_without_a_redis_it_says_so_and_ends(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VXL_REDIS_URL"}
    environment |= {"VXL_DATA_DIR": str(tmp_path), "VXL_PORT": "1", "VXL_API_METRICS_PORT": "0"}
    done = subprocess.run([sys.executable, "-m", "app.main"], env=environment, capture_output=True, timeout=30)
    assert done.returncode == 2
    assert b"VXL_REDIS_URL is not set" in done.stderr
    with pytest.raises(ValueError, match="VXL_REDIS_URL is not set"):
        create_app(Settings(redis_url=None, data_dir=tmp_path))


def await_live(api: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            assert api.get("/livez").status_code == 200
            return
        except httpx.ConnectError:
            time.sleep(0.05)
    raise AssertionError(process.communicate()[1])
