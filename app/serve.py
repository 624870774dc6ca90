"""The whole service on one machine: embedded Redis, the API and one worker, until Ctrl-C."""

import os
import signal
import subprocess
import threading
from contextlib import nullcontext
from types import FrameType

import structlog

from app import embedded_redis, parts
from app.embedded_redis import EmbeddedRedis
from app.settings import API_STOP_SECONDS, Settings

log = structlog.get_logger(__name__)

PARTS = {"api": "app.main", "worker": "worker.main"}
SPARE_STOP_SECONDS = 10  # beyond what a part takes by its own account


def serve(settings: Settings) -> int:
    """Run everything; the exit status is 0 after Ctrl-C or SIGTERM, 1 where the API or the embedded Redis ended
    by itself.

    A worker that ends is started again. All parts die with this process, even where it is killed outright.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    settings.scratch.mkdir(parents=True, exist_ok=True)
    own = nullcontext() if settings.redis_url else embedded_redis.start(settings.data_dir)
    with own as redis:
        environment = os.environ | {"VXL_REDIS_URL": settings.redis_url or (redis.url if redis else "")}
        running = {name: parts.start(module, environment) for name, module in PARTS.items()}
        log.info("serving", url=f"http://{settings.host}:{settings.port}", data=str(settings.data_dir.resolve()))
        try:
            return _supervise(running, redis, environment, stop)
        finally:
            parts.end(running.values(), stop_seconds(settings))


def stop_seconds(settings: Settings) -> float:
    """How long the parts may take to end: a worker drains for as long as it is told to."""
    return max(settings.drain_seconds, API_STOP_SECONDS) + SPARE_STOP_SECONDS


def _supervise(
    running: dict[str, subprocess.Popen[bytes]],
    redis: EmbeddedRedis | None,
    environment: dict[str, str],
    stop: threading.Event,
) -> int:
    while not stop.wait(0.5):
        if redis and redis.process and redis.process.poll() is not None:
            log.error("the embedded Redis ended", status=redis.process.returncode)
            return 1
        if running["api"].poll() is not None:
            log.error("the API ended", status=running["api"].returncode)
            return 1
        if running["worker"].poll() is not None:
            log.warning("the worker ended and is started again", status=running["worker"].returncode)
            stop.wait(1)
            running["worker"] = parts.start(PARTS["worker"], environment)
    return 0
