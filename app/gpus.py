"""`vxl worker --gpus all`: a worker for each GPU of this machine, each of which is started again where it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType

import structlog

from app import parts
from app.serve import SPARE_STOP_SECONDS
from app.settings import Settings

log = structlog.get_logger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT = "import torch; print(torch.cuda.device_count())"
LIVED_SECONDS = 60.0  # a worker that ended sooner waits before it is started again, longer each time
WAIT_SECONDS_MAX = 30.0


@dataclass
class Place:
    """A GPU, and the worker that has it. gpu: as CUDA_VISIBLE_DEVICES names it. port: of its metrics; 0: none."""

    gpu: str
    port: int
    worker: subprocess.Popen[bytes] | None = None
    started: float = 0
    wait: float = 1
    start_at: float = 0

    def tend(self) -> None:
        """Start the worker where there is none, once it is time."""
        now = time.monotonic()
        if self.worker is not None and (status := self.worker.poll()) is not None:
            self.wait = 1 if now - self.started > LIVED_SECONDS else min(2 * self.wait, WAIT_SECONDS_MAX)
            self.worker, self.start_at = None, now + self.wait
            log.warning("a worker ended and is started again", gpu=self.gpu, status=status, seconds=self.wait)
        if self.worker is None and now >= self.start_at:
            own = {VISIBLE: self.gpu, "VXL_METRICS_PORT": str(self.port)}
            self.worker, self.started = parts.start("worker.main", os.environ | own), now


def run(wanted: str, settings: Settings) -> int:
    """Run workers until SIGTERM or SIGINT; the exit status is 2 where there is no GPU.

    wanted: `all`, or numbers as CUDA_VISIBLE_DEVICES takes them. The metrics of the n-th are on VXL_METRICS_PORT + n.
    """
    gpus = _all() if wanted == "all" else [gpu for gpu in wanted.split(",") if gpu]
    if not gpus:
        log.error("there is no GPU")
        return 2
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    first = settings.metrics_port
    places = [Place(gpu, first + n if first else 0) for n, gpu in enumerate(gpus)]
    log.info("a worker for each GPU", gpus=gpus)
    try:
        while not stop.is_set():
            for place in places:
                place.tend()
            stop.wait(0.5)
    finally:
        parts.end([place.worker for place in places if place.worker], settings.drain_seconds + SPARE_STOP_SECONDS)
    return 0


def _all() -> list[str]:
    """Those that torch finds, asked in a process of its own: this one has to stay small."""
    asked = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=False)
    count = int(asked.stdout or 0) if asked.returncode == 0 else 0
    named = [gpu for gpu in os.environ.get(VISIBLE, "").split(",") if gpu]
    return named[:count] if named else [str(n) for n in range(count)]
