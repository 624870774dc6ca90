"""`vxl models` and `vxl workers`, as typed in a shell."""

import os
import socket
import subprocess
import sys

from redis import Redis

from app.api.system import EXAMPLE
from tests.app.conftest import Server
from tests.app.test_api_system import tell


def models(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return vxl("models", *arguments, **settings)


def workers(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return vxl("workers", *arguments, **settings)


def vxl(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    environment = os.environ | {"COLUMNS": "160"} | settings
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_a_running_service_is_asked(server: Server, redis_client: Redis) -> None:
    assert "No worker" in models("--url", server.url).stdout
    tell(redis_client, "a", state="idle", model="base", card=EXAMPLE["data"][0]["card"])
    tell(redis_client, "b", state="loading", model="another")
    done = models("--url", server.url + "/")
    assert done.returncode == 0, done.stderr
    _, another, base = (
        line for line in done.stdout.splitlines() if "base" in line or "another" in line or "kind" in line
    )
    assert "not loaded" in another
    for told in ("sdxl", "epsilon", "AutoencoderKL 4 x 1/8", "2651.1 M", "float16", "6f9a0c7e51d3"):
        assert told in base


def test_workers_are_shown_with_what_ails_them(server: Server, redis_client: Redis) -> None:
    assert "No worker" in workers("--url", server.url).stdout
    tell(redis_client, "a", state="busy", job_id="job_1", device="cpu")
    tell(redis_client, "b", state="unhealthy", reason="no such file")
    done = workers("--url", server.url)
    assert done.returncode == 0, done.stderr
    (a,) = (line for line in done.stdout.splitlines() if "busy" in line)
    assert "job_1" in a and "cpu" in a
    assert "unhealthy: no such file" in done.stdout


def test_workers_of_no_service_are_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = workers(VXL_PORT=str(port))
    assert done.returncode == 1
    assert "No service answers" in done.stdout


def test_without_a_service_the_settings_are_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = models(VXL_PORT=str(port), VXL_MODEL="some/model")
    assert done.returncode == 0, done.stderr
    assert f"No service answers at http://127.0.0.1:{port}" in done.stdout
    assert "some/model" in done.stdout


def test_what_answers_with_an_error_is_no_service(server: Server) -> None:
    done = models("--url", f"{server.url}/nowhere")
    assert done.returncode == 1
    assert "404" in done.stdout
