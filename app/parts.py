"""Processes that make up a service on one machine: started in groups of their own, ended together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

from app.parent import tied_to


def start(module: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """`python -m module` in a process group of its own, so that Ctrl-C reaches it only through us; it dies with us."""
    command = [sys.executable, "-m", module]
    tie = tied_to(os.getpid(), signal.SIGTERM)
    return subprocess.Popen(command, env=environment, process_group=0, preexec_fn=tie)


def end(parts: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """Tell all to go, and kill those that are still there after so many seconds."""
    told = list(parts)
    for part in told:
        part.terminate()
    deadline = time.monotonic() + seconds
    for part in told:
        try:
            part.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()
