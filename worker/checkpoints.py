"""What is kept of a job until it ends, so that whoever takes it up next goes on instead of starting over.

    checkpoints/{job}/{name}.json           which files belong together, their digests, and what is to be told of them
    checkpoints/{job}/{name}/{digest}       a file, by its own digest

The files come first and their list last, so that a list tells of whole files alone. What does not fit its digest, or
was made by another version or for another request, counts as not there.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, Self

import structlog
from obstore.exceptions import BaseError
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.keys import checkpoint_prefix
from app.store import Store, brief
from worker.solver.keeper import Reached
from worker.solver.stages import Frames

log = structlog.get_logger(__name__)

FORMAT = 1  # of what is told and of the files; another one is ignored
UNREADABLE = (BaseError, OSError, ValueError, KeyError, TypeError, AttributeError)


class Kept(NamedTuple):
    """Files by name, and what was told of them."""

    files: dict[str, Path]
    told: dict[str, Any]


class Checkpoints(Protocol):
    """Where a pipeline keeps what it has done."""

    def get(self, name: str) -> Kept | None:
        """What was kept under that name last, if anything."""

    def put(self, name: str, files: dict[str, Path], told: dict[str, Any], over: str | None = None) -> None:
        """Keep this instead; told: ready for JSON. over: the name of what is needed no longer once this is kept."""

    def written(self) -> None:
        """Returns once all that was put is there, or was given up."""


class StepKeeper:
    """Keeps the steps of one run under a name, if there is where; scratch: for the file in the making.

    told: what went along with the step at which to go on. tell: gives what is to go along with the next ones, and
    spent what the run has taken so far, seconds of each stage.
    """

    def __init__(self, checkpoints: Checkpoints | None, name: str, scratch: Path) -> None:
        self.name, self._checkpoints, self._scratch = name, checkpoints, scratch
        self._found = checkpoints.get(name) if checkpoints else None
        self.told: dict[str, Any] = self._found.told if self._found else {}
        self.tell: Callable[[], dict[str, Any]] = dict
        self.spent: Callable[[], dict[str, float]] = dict

    @property
    def steps(self) -> int | None:
        """How many are done; None: not even the inversion."""
        return self.told.get("steps")

    def reached(self) -> Reached | None:
        if self._found is None:
            return None
        tensors = load_file(self._found.files["latents"])
        return Reached(self.told["steps"], tensors["z"], tensors["generator"])

    def keep(self, steps: int, z: Frames, frames: int, generator: Tensor) -> None:
        if self._checkpoints is None:
            return
        path = self._scratch / f"{self.name}-{steps % 2}.safetensors"  # the one before may yet be read
        save_file({"z": z[0:frames].cpu().contiguous(), "generator": generator}, path)
        self._checkpoints.put(self.name, {"latents": path}, {"steps": steps} | self.tell())


class StoredCheckpoints:
    """In the store, for one job, written by a thread while the solver goes on; the end of the context waits for that.

    identity: whatever a result depends on, ready for JSON. scratch: for copies. each: called while they are made. A
    store that does not take them, or does not answer, costs the checkpoint and not the job.
    """

    def __init__(
        self, store: Store, job_id: str, identity: Any, scratch: Path, each: Callable[[], object] = lambda: None
    ) -> None:
        self._each = each
        self._store, self._scratch, self._prefix = store, scratch, checkpoint_prefix(job_id)
        self._identity = sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()
        self._keys: dict[str, set[str]] = {}  # of the files that each name stands for
        self._thread, self._lock = ThreadPoolExecutor(1), Lock()
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def get(self, name: str) -> Kept | None:
        try:
            return self._get(name)
        except FileNotFoundError:
            return None  # as with most jobs
        except UNREADABLE as error:
            log.warning("checkpoint ignored", name=name, reason=brief(error))
            return None

    def put(self, name: str, files: dict[str, Path], told: dict[str, Any], over: str | None = None) -> None:
        """Returns once what was put before is written: these files have to stay as they are until then."""
        with self._lock:
            before, self._writing = self._writing, self._thread.submit(self._put, name, files, told, over)
        if before:
            before.result()

    def written(self) -> None:
        """Returns once all that was put is written, or was given up."""
        if self._writing:
            self._writing.result()

    def _get(self, name: str) -> Kept:
        found = json.loads(self._store.get_bytes(self._list_of(name)))
        if found["identity"] != self._identity:
            raise ValueError("it is of another version, or of another request")
        files: dict[str, Path] = {}
        for kind, digest in found["files"].items():
            try:
                fetched = self._store.fetch(self._key(name, digest), self._scratch, self._each)
                files[kind] = self._ours(fetched, f"{name}-{kind}")
                whole = digest_of(files[kind]) == digest
            except FileNotFoundError:
                whole = False
            if not whole:
                raise ValueError(f"its file {kind} is damaged or gone")
        self._keys[name] = {self._key(name, digest) for digest in found["files"].values()}
        return Kept(files, found["told"])

    def _ours(self, path: Path, name: str) -> Path:
        """A file of the store under a name of our own: a worker that had the run before may yet delete it there."""
        if path.parent == self._scratch:
            return path
        own = self._scratch / name
        own.unlink(missing_ok=True)
        try:
            own.hardlink_to(path)
        except OSError:  # another disk
            shutil.copyfile(path, own)
        return own

    def _put(self, name: str, files: dict[str, Path], told: dict[str, Any], over: str | None) -> None:
        try:
            digests = {kind: digest_of(path) for kind, path in files.items()}
            keys = {kind: self._key(name, digest) for kind, digest in digests.items()}
            for kind, path in files.items():
                if keys[kind] not in self._keys.get(name, set()):
                    self._store.put_file(keys[kind], path)
            listed = {"identity": self._identity, "files": digests, "told": told}
            self._store.put_bytes(self._list_of(name), json.dumps(listed).encode())
            for old in self._keys.get(name, set()) - set(keys.values()):
                self._store.delete(old)
            self._keys[name] = set(keys.values())
        except UNREADABLE as error:
            log.warning("checkpoint not written", name=name, reason=brief(error))
            return
        if over:
            self._drop(over)

    def _drop(self, name: str) -> None:
        try:
            for key in (self._list_of(name), *self._keys.pop(name, set())):
                self._store.delete(key)
        except UNREADABLE as error:
            log.warning("checkpoint not deleted", name=name, reason=brief(error))

    def _list_of(self, name: str) -> str:
        return f"{self._prefix}/{name}.json"

    def _key(self, name: str, digest: str) -> str:
        return f"{self._prefix}/{name}/{digest}"


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
