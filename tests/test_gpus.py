"""A worker for each GPU, as `vxl worker --gpus` runs them; here on the CPU, which is all the same to the supervisor."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.embedded_redis import EmbeddedRedis
from app.records import Records
from tests.processes import alive, descendants, wait_until

COMMAND = [sys.executable, "-m", "app.cli", "worker", "--gpus"]


@pytest.fixture
def supervisor(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    own = {"VXL_REDIS_URL": redis_server.url, "VXL_DATA_DIR": str(tmp_path), "VXL_METRICS_PORT": "0"}
    process = subprocess.Popen([*COMMAND, "0,3"], env=os.environ | own)
    yield process
    process.kill()
    process.wait()


def gpu_of(pid: int) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return None
    return next((v.decode().partition("=")[2] for v in variables if v.startswith(b"CUDA_VISIBLE_DEVICES=")), None)


def workers_of(supervisor: subprocess.Popen[bytes]) -> dict[str, int]:
    """Process ids by GPU."""
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    return {gpu: int(pid) for pid in children if (gpu := gpu_of(int(pid))) is not None}


def test_each_has_its_gpu_and_is_started_again_alone(supervisor: subprocess.Popen[bytes], redis_client: Redis) -> None:
    records = Records(redis_client)
    wait_until(lambda: len(records.workers()) == 2, 60)
    before = workers_of(supervisor)
    assert set(before) == {"0", "3"}
    os.kill(before["0"], signal.SIGKILL)
    wait_until(lambda: set(workers_of(supervisor)) == {"0", "3"} and workers_of(supervisor)["0"] != before["0"])
    assert workers_of(supervisor)["3"] == before["3"]
    everyone = descendants(supervisor.pid)
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    wait_until(lambda: not any(alive(pid) for pid in everyone))


def test_workers_die_with_their_supervisor(supervisor: subprocess.Popen[bytes], redis_client: Redis) -> None:
    wait_until(lambda: len(Records(redis_client).workers()) == 2, 60)
    everyone = descendants(supervisor.pid)
    supervisor.kill()
    wait_until(lambda: not any(alive(pid) for pid in everyone))


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "VXL_DATA_DIR": str(tmp_path)}
    done = subprocess.run([*COMMAND, "all"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "there is no GPU" in done.stdout + done.stderr
