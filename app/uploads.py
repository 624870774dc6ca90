"""Receives files: streamed into the store, hashed on the way, then opened with suspicion; what is refused goes."""

import re
import shutil
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256

from anyio import CancelScope, CapacityLimiter, to_thread
from obstore.exceptions import BaseError
from starlette.datastructures import Headers

from app.containers import UploadKind
from app.contract import MediaInfo, Upload
from app.errors import Problem, invalid
from app.ids import new_id
from app.keys import upload_key
from app.probe import probe
from app.records import Records, now
from app.settings import Settings
from app.store import Store, disk_full

PROBES_AT_ONCE = 2  # each decodes a whole clip
UPLOAD_ID = re.compile(r"up_[0-9a-z]{26}")
SPARE_BYTES = 64 << 20  # of disk, which uploads leave to everyone else
CHECK_BYTES = 4 << 20  # received between two looks at the disk
RETRY_FULL_SECONDS = 60
STALE_SECONDS = 86400  # no look at an upload takes that long


@dataclass(frozen=True)
class Announced:
    """What the client says of the body before it sends it."""

    size: int | None
    sha256: bytes | None


def announced(headers: Headers) -> Announced:
    """From Content-Length, and Content-Digest (RFC 9530) or X-Checksum-SHA256 (hexadecimal)."""
    length = headers.get("content-length", "")
    digest: bytes | None = None
    try:
        if found := re.search(r"(?:^|[,\s])sha-256=:([^:]*):", headers.get("content-digest", ""), re.IGNORECASE):
            digest = b64decode(found[1], validate=True)
        elif checksum := headers.get("x-checksum-sha256"):
            digest = bytes.fromhex(checksum.strip())
    except ValueError:
        digest = b""
    if digest is not None and len(digest) != sha256().digest_size:
        raise invalid("Content-Digest", "not a SHA-256 in the form of RFC 9530, sha-256=:<base64>:")
    return Announced(int(length) if length.isascii() and length.isdigit() else None, digest)


class Uploads:
    """Uploads as clients see them."""

    def __init__(self, settings: Settings, records: Records, store: Store) -> None:
        self.settings = settings
        self.records = records
        self.store = store
        self._probing = CapacityLimiter(PROBES_AT_ONCE)

    def clear(self) -> None:
        """Delete copies of uploads that an API which was killed looked at; the store has the files."""
        for path in self.settings.scratch.glob(f"{upload_key('').replace('/', '_')}*"):
            with suppress(FileNotFoundError):  # another was faster
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    async def receive(
        self, kind: UploadKind, said: Announced, body: AsyncIterator[bytes], tenant: str | None
    ) -> Upload:
        """Store, check and probe a file; raises a Problem or Refused, and then nothing of it is left."""
        self._check_size(said.size or 0)
        self._check_disk(said.size or 0)
        await to_thread.run_sync(self.records.redis.ping)  # where no record can be made, a file would be an orphan
        upload_id = new_id("up")
        key = upload_key(upload_id)
        try:
            size, digest = await self._stream(key, body)
            if said.size is not None and size != said.size:
                raise Problem(400, "length_mismatch", f"Content-Length said {said.size} bytes; {size} came.")
            if said.sha256 is not None and digest != said.sha256:
                raise Problem(422, "checksum_mismatch", f"The SHA-256 of what came is {digest.hex()}.")
            media, warnings = await to_thread.run_sync(partial(self._probe, key, kind), limiter=self._probing)
            created = now()
            upload = Upload(
                id=upload_id,
                tenant=tenant,
                kind=kind,
                bytes=size,
                sha256=digest.hex(),
                media=media,
                warnings=warnings,
                created_at=created,
                expires_at=created + timedelta(seconds=self.settings.upload_ttl_seconds),
            )
            await to_thread.run_sync(self.records.put_upload, upload)
        except BaseException:
            with CancelScope(shield=True):
                await to_thread.run_sync(self.store.delete, key)
            raise
        return upload

    def get(self, upload_id: str, tenant: str | None) -> Upload:
        """The upload; raises a Problem where there is none that this tenant may see."""
        upload = self.records.upload(upload_id) if UPLOAD_ID.fullmatch(upload_id) else None
        if upload is None or self.settings.hides(upload.tenant, tenant):
            raise Problem(404, "upload_not_found", "There is no such upload, or it has expired.")
        return upload

    def delete(self, upload_id: str, tenant: str | None) -> None:
        """Remove the file and its record; raises a Problem while a job still has to read it."""
        self.get(upload_id, tenant)
        if jobs := self.records.live_jobs_of(upload_id):
            raise Problem(409, "upload_in_use", f"{jobs[0].id} still needs it; cancel that job first.")
        self.records.delete_upload(upload_id)  # first, so that no job begins whose clip is gone
        self.store.delete(upload_key(upload_id))

    async def _stream(self, key: str, body: AsyncIterator[bytes]) -> tuple[int, bytes]:
        digest, size, checked = sha256(), 0, 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal size, checked
            async for piece in body:
                size += len(piece)
                self._check_size(size)
                if size - checked >= CHECK_BYTES:
                    self._check_disk(0)
                    checked = size
                if piece:
                    digest.update(piece)
                    yield piece

        try:
            await self.store.put_stream(key, pieces())
        except (BaseError, OSError) as error:
            if disk_full(error):
                raise _storage_full() from error
            raise
        return size, digest.digest()

    def _probe(self, key: str, kind: UploadKind) -> tuple[MediaInfo, list[str]]:
        path = self.store.fetch(key, self.settings.scratch)
        try:
            return probe(path, self.settings, kind)
        finally:
            if self.store.directory is None:
                path.unlink(missing_ok=True)

    def _check_size(self, size: int) -> None:
        limit = self.settings.max_upload_bytes
        if size > limit:
            raise Problem(413, "file_too_large", f"A file may have {limit} bytes.")

    def _check_disk(self, size: int) -> None:
        directory = self.store.directory
        if directory is not None and shutil.disk_usage(directory).free < size + SPARE_BYTES:
            raise _storage_full()


def _storage_full() -> Problem:
    return Problem(507, "storage_full", "There is no room for this file now.", retry_after=RETRY_FULL_SECONDS)
