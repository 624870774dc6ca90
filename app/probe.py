"""Opens an upload as an enemy would have made it.

Decoding strangers' files is where memory is corrupted and machines are filled, so it happens in a process of its own
(app/probe_child.py) with no environment, no file but the one, limited time and memory, nothing to write to,
and no life beyond the service's.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from app.containers import UploadKind
from app.contract import MediaInfo
from app.degradations import MAX_KERNEL
from app.settings import Settings

_ROOT: Final = Path(__file__).resolve().parents[1]
_UNSUPPORTED: Final = frozenset({"unsupported_container", "unsupported_codec"})  # 415; all else is 422


class Refused(Exception):
    """A file the service does not take. code: stable, for programs. detail: what is wrong, for its owner."""

    def __init__(self, code: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.detail = detail


def probe(path: Path, settings: Settings, kind: UploadKind) -> tuple[MediaInfo, list[str]]:
    """Decode a file to its end: what it is, and what its owner should know. Raises Refused.

    kind: a clip; a mask, PNG, JPEG or video in nothing but black and white; a kernel, a grey PNG or JPEG.
    """
    found = _decode(path, settings, kind)
    return MediaInfo(**found["media"]), found["warnings"]


def _decode(path: Path, settings: Settings, kind: UploadKind) -> dict[str, Any]:
    question = {
        "path": str(path.resolve()),
        "kind": kind,
        "max_frames": settings.max_frames,
        "max_pixels": settings.max_pixels,
        "min_side": 1 if kind == "kernel" else settings.min_side,
        "max_kernel": MAX_KERNEL,
        "seconds": settings.probe_seconds,
    }
    try:
        # -P, -s: what the child imports comes from here and the installation, from no directory of the moment.
        child = subprocess.run(
            [sys.executable, "-P", "-s", "-m", "app.probe_child", json.dumps(question), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"},
            timeout=settings.probe_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(settings) from None
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_slow(settings)
    if child.returncode < 0:
        raise Refused("corrupt_stream", 422, "The decoder broke down over this file.")
    if child.returncode > 0:
        raise RuntimeError(f"the probe failed: {child.stderr.decode(errors='replace')[-2000:]}")
    answer: dict[str, Any] = json.loads(child.stdout)
    if "code" in answer:
        raise Refused(answer["code"], 415 if answer["code"] in _UNSUPPORTED else 422, answer["detail"])
    return answer


def _too_slow(settings: Settings) -> Refused:
    detail = f"Decoding this file takes more than {settings.probe_seconds:g} s; send a shorter or smaller one."
    return Refused("probe_timeout", 422, detail)
