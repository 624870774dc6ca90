"""What must not be lost is tried again for as long as Redis, or the store, is away."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from obstore.exceptions import BaseError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from app.away import redis_away
from app.contract import Job, JobStatus
from app.records import IllegalTransition, Records
from app.store import Store, brief, disk_full
from worker.control import Control, StoreAway

log = structlog.get_logger(__name__)

T = TypeVar("T")

COMMAND_SECONDS = 2  # for Redis to answer
STORE_SECONDS = 300
MISSING_SECONDS = 20  # where the store answers that it has no such file: its disk may not be mounted


def connect(url: str) -> Redis:
    """A client that says soon when Redis is away: how long to wait for it, its user decides.

    A connection that was closed meanwhile is made anew; one that does not answer is not asked again.
    """
    once_more = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(url, socket_timeout=COMMAND_SECONDS, socket_connect_timeout=COMMAND_SECONDS, retry=once_more)


class Patience:
    """For a task: it lives meanwhile, and stops waiting where its worker says so (`Control.go_on`)."""

    def __init__(self, records: Records, control: Control) -> None:
        self._records, self._control = records, control

    def get(self, job_id: str) -> Job:
        """A record, as `Records.get`."""
        return self._with_redis(lambda: self._records.get(job_id))

    def move(self, job: Job, to: JobStatus, **changes: Any) -> Job:
        """A change of state, as `Records.move`."""
        redis = self._records.redis

        def attempt() -> Job:
            try:
                return self._records.move(job.id, to, lambda pipe: self._control.check(redis), **changes)
            except IllegalTransition as error:
                found = error.job
                if found.status is not to or found.attempt != changes.get("attempt", job.attempt):
                    raise
                self._control.check(redis)
                return found  # it had got through, though its answer had not

        return self._with_redis(attempt)

    def _with_redis(self, work: Callable[[], T]) -> T:
        """For as long as it takes: nobody else can take the job meanwhile."""
        while True:
            try:
                return work()
            except RedisError as error:
                if not redis_away(error):
                    raise
                log.warning("redis is away; it is tried again", error=str(error))
                self._wait()

    def put(self, store: Store, key: str, path: Path) -> None:
        """A file into the store, for up to five minutes; then raises StoreAway."""
        self._with_store(key, lambda: store.put_file(key, path, self._control.go_on))

    def fetch(self, store: Store, key: str, scratch: Path) -> Path:
        """A file from the store, as `Store.fetch`; for up to five minutes, then raises StoreAway."""
        return self._with_store(key, lambda: store.fetch(key, scratch, self._control.go_on))

    def _with_store(self, key: str, work: Callable[[], T]) -> T:
        began = time.monotonic()
        while True:
            try:
                return work()
            except (BaseError, FileNotFoundError) as error:
                if disk_full(error):
                    raise
                patience = MISSING_SECONDS if isinstance(error, FileNotFoundError) else STORE_SECONDS
                if time.monotonic() > began + patience:
                    raise StoreAway(brief(error)) from error
                log.warning("the store is away; the file is tried again", key=key, error=brief(error))
                self._wait()

    def _wait(self) -> None:
        self._control.go_on()
        time.sleep(1)
