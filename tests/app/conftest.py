"""The API behind a real uvicorn, on a real Redis and a real directory."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from redis import Redis

from app.api.wiring import Services
from app.contract import Upload
from app.embedded_redis import EmbeddedRedis
from app.keys import upload_key
from app.main import create_app
from app.records import Records
from app.settings import Settings
from tests import media


@dataclass(frozen=True)
class Server:
    """A running API."""

    url: str
    settings: Settings
    services: Services

    @property
    def files(self) -> list[Path]:
        """All that lies in the store."""
        return [path for path in Path(self.settings.files).rglob("*") if path.is_file()]


@contextmanager
def running(settings: Settings) -> Iterator[Server]:
    app = create_app(settings)
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", settings, app.state.services)
    finally:
        app.state.services.stopping.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def session_server(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("api")
    with running(Settings(redis_url=redis_server.url, data_dir=directory, api_metrics_port=0)) as server:
        yield server


@pytest.fixture
def server(session_server: Server, redis_client: Redis) -> Server:
    """The API with default settings; nothing in it yet."""
    for path in session_server.files:
        path.unlink()
    return session_server


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def serve(redis_server: EmbeddedRedis, redis_client: Redis, tmp_path: Path) -> Callable[..., Any]:
    """Runs another API, with other settings."""

    def start(**settings: Any) -> Any:
        defaults: dict[str, Any] = {"redis_url": redis_server.url, "data_dir": tmp_path, "api_metrics_port": 0}
        return running(Settings(**(defaults | settings)))

    return start


@pytest.fixture
def records(redis_client: Redis) -> Records:
    """The worker's side: moves jobs along."""
    return Records(redis_client)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """12 frames of 64 x 48."""
    return media.clip(tmp_path_factory.mktemp("clips") / "clip.mp4").read_bytes()


@pytest.fixture(scope="session")
def upload(session_server: Server, clip: bytes) -> Upload:
    """Sent and probed once: that takes a process of its own."""
    response = httpx.post(f"{session_server.url}/v1/uploads", content=clip, timeout=30)
    assert response.status_code == 201, response.text
    return Upload.model_validate(response.json())


@pytest.fixture
def upload_id(upload: Upload, clip: bytes, server: Server, records: Records) -> str:
    """That upload, there again for every test."""
    server.services.store.put_bytes(upload_key(upload.id), clip)
    records.put_upload(upload)
    return upload.id


@pytest.fixture
def body(upload_id: str) -> dict[str, Any]:
    """A request for a job."""
    return {"source": {"upload_id": upload_id}, "task": "deblur"}


@pytest.fixture
def job(api: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """A queued job."""
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    return dict(response.json())


def mask(path: Path, width: int = 64, height: int = 48) -> bytes:
    """The left half known, the right half lost."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    return media.as_png(path, pixels).read_bytes()


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every error is a problem document, whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem = dict(response.json())
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "retryable", "errors"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["instance"] == response.request.url.path
    assert problem["type"].endswith(code)
    assert problem["retryable"] == ("retry-after" in response.headers)
    return problem
