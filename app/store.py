"""Files by key, on a local disk or in S3."""

import errno
import heapq
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

CHUNK = 8 << 20
RETRY_SECONDS = 10
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a quota spent: Python's own, obstore's or that of safetensors."""
    told = str(error)
    return getattr(error, "errno", None) in NO_ROOM or any(
        f"{word} {number}" in told for word in ("os error", "code:") for number in NO_ROOM
    )


def brief(error: BaseException) -> str:
    """What an error says, in one line: obstore's go on for pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and entity tag of a stored file."""

    size: int
    etag: str


@dataclass(frozen=True)
class FoundFile:
    """A file that a listing found.

    last_modified: in S3, when the writing of it began
    part: left by a write that goes on, or never came to its end (on a local disk alone)
    """

    key: str
    last_modified: datetime
    part: bool = False


class Store:
    """Streams in, streams out; a file appears under its key only when it is whole.

    location: a directory, or s3://bucket/prefix, with endpoint and credentials in the usual variables `AWS_...`
    Raises obstore's GenericError where the store is away: S3 was asked again for RETRY_SECONDS.
    """

    def __init__(self, location: str) -> None:
        self.directory = None if "://" in location else Path(location)
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._store: ObjectStore = LocalStore(self.directory)
        else:
            self._store = from_url(location, retry_config={"retry_timeout": timedelta(seconds=RETRY_SECONDS)})

    async def put_stream(self, key: str, body: AsyncIterator[bytes]) -> None:
        """Store what `body` yields; an error it raises leaves nothing behind."""
        await obstore.put_async(self._store, key, body, use_multipart=True, chunk_size=CHUNK, max_concurrency=4)

    def put_file(self, key: str, path: Path, each: Callable[[], object] = lambda: None) -> None:
        """each: called before every piece of 8 MiB; what it raises leaves nothing behind."""
        obstore.put(self._store, key, _pieces(path, each), use_multipart=True, chunk_size=CHUNK, max_concurrency=4)

    def put_bytes(self, key: str, body: bytes) -> None:
        obstore.put(self._store, key, body)

    def get_bytes(self, key: str) -> bytes:
        """A small file, all of it as it was at one moment. Raises FileNotFoundError where there is none."""
        return bytes(obstore.get(self._store, key).bytes())

    def info(self, key: str) -> FileInfo | None:
        """Size and tag, or None where there is no such file."""
        try:
            meta = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        etag = meta["e_tag"] or f"{meta['size']:x}-{meta['last_modified'].timestamp():.0f}"
        return FileInfo(meta["size"], etag.strip('"'))

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes start <= i < end in pieces of at most 8 MiB."""
        info = self.info(key)
        if info is None:
            raise FileNotFoundError(key)
        stop = info.size if end is None else min(end, info.size)
        for at in range(start, stop, CHUNK):
            yield bytes(obstore.get_range(self._store, key, start=at, end=min(at + CHUNK, stop)))

    def fetch(self, key: str, scratch: Path, each: Callable[[], object] = lambda: None) -> Path:
        """A local path to read the file from: the file itself on a local disk, else a copy under `scratch`.

        each: called before every piece of 8 MiB. Raises FileNotFoundError where there is none.
        """
        if self.directory is not None:
            obstore.head(self._store, key)
            return self.directory / key
        path = scratch / key.replace("/", "_")
        with path.open("wb") as file:
            for piece in self.read(key):
                each()
                file.write(piece)
        return path

    def files(self, prefix: str, after: str = "", limit: int = 1000) -> list[FoundFile]:
        """At most `limit` files under `prefix`, in the order of their keys; those behind the key `after`."""
        if self.directory is not None:
            return self._files_on_disk(prefix, after, limit)
        found = (meta for page in obstore.list(self._store, prefix, offset=after or None) for meta in page)
        return [FoundFile(meta["path"], meta["last_modified"]) for meta in islice(found, limit)]

    def _files_on_disk(self, prefix: str, after: str, limit: int) -> list[FoundFile]:
        """Parts of files among them, which obstore neither lists nor deletes."""
        assert self.directory is not None
        paths = (Path(at) / name for at, _, names in os.walk(self.directory / prefix) for name in names)
        keys = (path.relative_to(self.directory).as_posix() for path in paths)
        found: list[FoundFile] = []
        for key in heapq.nsmallest(limit, (key for key in keys if key > after)):
            with suppress(FileNotFoundError):  # gone meanwhile
                modified = datetime.fromtimestamp((self.directory / key).stat().st_mtime, UTC)
                found.append(FoundFile(key, modified, part="#" in key))
        return found

    def delete(self, prefix: str) -> None:
        """Remove the file `prefix`, and all files under it."""
        if self.directory is not None and (file := self.directory / prefix).is_file():
            file.unlink(missing_ok=True)
            return
        paths = [meta["path"] for page in obstore.list(self._store, prefix) for meta in page]
        if self.info(prefix) is not None:
            paths.append(prefix)
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                continue
        if self.directory is not None:
            shutil.rmtree(self.directory / prefix, ignore_errors=True)


def _pieces(path: Path, each: Callable[[], object]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            each()
            yield piece
