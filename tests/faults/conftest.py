"""A fleet of real workers with the bundled model, on a real Redis that a relay stands in front of."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from redis import Redis

from app import embedded_redis
from app.contract import TERMINAL, Job, JobStatus
from app.embedded_redis import EmbeddedRedis
from app.jobs import Jobs
from app.keys import checkpoint_prefix, result_key, upload_key
from app.records import Records
from app.settings import Settings
from app.store import Store
from tests.faults.proxy import Proxy
from tests.processes import alive, descendants, wait_until
from tests.worker.front_end import Service
from tests.worker.test_pipeline import small, written
from worker.demo import SAMPLE
from worker.video import read_clip

ROOT = Path(__file__).parents[2]
FAULTS = os.environ.get("VXL_TEST_FAULTS", "")  # "all", or "all with defaults": with leases of 25 seconds, and the like
ALL = bool(FAULTS)  # else a part of them
HASTE = {"VXL_HEARTBEAT_SECONDS": "0.5", "VXL_LEASE_SECONDS": "3", "VXL_CANCEL_GRACE_SECONDS": "3"}
SETTINGS = ({} if FAULTS == "all with defaults" else HASTE) | {
    "VXL_METRICS_PORT": "0",
    "VXL_PART_FRAMES": "8",
    "VXL_MICRO_BATCH": "2",
    "VXL_LOG_FORMAT": "json",
    "OMP_NUM_THREADS": "1",
}
LEASE_SECONDS = float(SETTINGS.get("VXL_LEASE_SECONDS", Settings().lease_seconds))
FRAMES = 24
LONG_FRAMES = 120  # four runs of at most 32
LONG_UPLOAD = "up_" + 26 * "1"
UPLOAD = "up_" + 26 * "0"
WAIT_SECONDS = 120
in_full = pytest.mark.skipif(not ALL, reason="`make test-faults` does it")


@dataclass
class Fleet:
    """Workers, and the front end's view of what they do."""

    service: Service
    proxy: Proxy
    data: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: Path | None = None
    store_url: str | None = None  # else files lie under `data`
    horses: set[int] = field(default_factory=set)

    def start(self, url: str | None = None, **settings: str) -> subprocess.Popen[bytes]:
        """A worker, with Redis behind the relay unless another `url` is given."""
        own = {"VXL_REDIS_URL": url or self.proxy.url, "VXL_DATA_DIR": str(self.data)}
        own |= {"VXL_STORE_URL": self.store_url} if self.store_url else {}
        with self._log(len(self.started)).open("wb") as log:
            command = [sys.executable, "-m", "worker.main"]
            environment = os.environ | SETTINGS | own | settings
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.started.append(worker)
        return worker

    @property
    def store(self) -> Store:
        return Store(self.store_url or str(self.data / "files"))

    @property
    def direct(self) -> str:
        """Of the Redis behind the relay."""
        return f"unix://{quote(str(self.proxy.server))}"

    def log_of(self, worker: subprocess.Popen[bytes]) -> bytes:
        return self._log(self.started.index(worker)).read_bytes()

    def _log(self, n: int) -> Path:
        return (self.logs or self.data) / f"worker{n}.log"

    def cancel(self, job_id: str) -> None:
        """As the front end does it: what is queued at once, what runs by asking."""
        with Redis.from_url(self.direct) as client:
            jobs = Jobs(Settings(data_dir=self.data), Records(client), self.store)
            jobs.cancel(job_id)

    def submit(self, **metadata: Any) -> str:
        return self.service.submit(upload_id=UPLOAD, frames=FRAMES, **metadata)

    def horse_of(self, worker: subprocess.Popen[bytes]) -> int:
        """The process that holds the model."""
        (horse,) = (
            pid for pid in descendants(worker.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        self.horses.add(horse)
        return horse

    def ready(self, count: int = 1) -> None:
        """Wait until so many workers hold their model."""
        wait_until(
            lambda: sum(w["state"] in ("idle", "busy") for w in self.service.records.workers()) >= count, WAIT_SECONDS
        )

    def ended(self, job_id: str) -> Job:
        wait_until(lambda: self.service.status(job_id) in TERMINAL, WAIT_SECONDS)
        return self.service.records.get(job_id)

    def output(self, job_id: str) -> str:
        return sha256(b"".join(self.store.read(result_key(self.service.records.get(job_id), "output")))).hexdigest()

    def ends(self, job_id: str) -> list[str]:
        """The terminal states that the job's events tell of."""
        told = [event.data for event in self.service.records.events(job_id) if event.kind == "status"]
        return [status for data in told for status in TERMINAL if f'"{status}"' in data]

    def assert_clean(self, *jobs: str) -> None:
        """Nothing is left of these jobs but records and results, and no process but the workers and their horses."""
        wait_until(lambda: not self.service.leftovers())
        wait_until(lambda: not self.store.files(checkpoint_prefix("")))
        wait_until(lambda: not any((self.data / "scratch").glob("job_*")))
        assert self.service.redis.smembers("vxl:jobs:live") == set()
        boards = ("vxl:shared*", "vxl:job:*:runs*")
        wait_until(lambda: not [key for kind in boards for key in self.service.redis.scan_iter(kind)])
        alive_now = {worker.pid for worker in self.started if worker.poll() is None}
        held = {pid for worker in alive_now for pid in descendants(worker)}
        assert not [pid for pid in self.horses if alive(pid) and pid not in held]


@pytest.fixture
def fleet(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> Iterator[Fleet]:
    store = Store(str(tmp_path / "files"))
    for upload_id, frames in ((UPLOAD, FRAMES), (LONG_UPLOAD, LONG_FRAMES)):
        store.put_file(upload_key(upload_id), clip(tmp_path, frames))
    with Proxy(redis_server.url) as proxy, ending(Fleet(Service(redis_client), proxy, tmp_path)) as fleet:
        yield fleet


@contextmanager
def ending(fleet: Fleet) -> Iterator[Fleet]:
    """Every process of it ends with the context."""
    try:
        yield fleet
    finally:
        fleet.proxy.release()
        for worker in fleet.started:
            worker.kill()
            worker.wait()
        wait_until(lambda: not any(alive(horse) for horse in fleet.horses))


def clip(directory: Path, count: int = FRAMES) -> Path:
    """Frames that are sampled in one run, of three parts: blurred, as the task `deblur` has it."""
    frames = small(read_clip(SAMPLE))
    return written(directory / "in.mp4", torch.cat([frames, frames.flip(0)] * 4)[:count])


def outcome_alone(directory: Path, upload_id: str, frames: int, **settings: str) -> str:
    """Digest of what a clip comes back as where one worker does it and nothing happens."""
    with (
        embedded_redis.start(directory) as server,
        Redis.from_url(server.url) as client,
        Proxy(server.url) as proxy,
        ending(Fleet(Service(client), proxy, directory)) as fleet,
    ):
        Store(str(directory / "files")).put_file(upload_key(upload_id), clip(directory, frames))
        worker = fleet.start(**settings)
        job_id = fleet.service.submit(upload_id=upload_id, frames=frames)
        assert fleet.ended(job_id).status is JobStatus.succeeded
        worker.terminate()
        assert worker.wait(20) == 0
        return fleet.output(job_id)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return outcome_alone(tmp_path_factory.mktemp("undisturbed"), UPLOAD, FRAMES)
