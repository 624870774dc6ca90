"""Finds jobs that were lost with their worker, or that nobody ran in time, and gives them back or ends them.

It also clears away what is kept no longer: results and uploads whose time is over, and what killed workers left behind.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import cast

import structlog
from obstore.exceptions import BaseError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from rq import worker_registration
from rq.executions import Execution
from rq.job import Job as QueuedJob

from app.contract import RESULT_FILES, JobStatus
from app.keys import checkpoint_prefix, result_key, results_prefix, upload_key
from app.records import IllegalTransition, UnknownJob, now
from app.settings import Settings
from app.store import FoundFile, Store, brief
from worker import tenants
from worker.lease import MISSING
from worker.ledger import Ledger

log = structlog.get_logger(__name__)

LEADER = "vxl:housekeeper"  # name of the worker that keeps house, for a lease

# The leader stays it for as long as it renews its lease: KEYS[1] LEADER, ARGV its name and milliseconds.
LEAD = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RESIGN = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

TIDY_SECONDS = 60  # from one pass to the next
PASS_SECONDS = 2.0  # for each of the three kinds of things
STOP_SECONDS = 2.0  # how long a worker that leaves waits for a pass to end
JOBS_PER_PASS, FILES_PER_PASS = 100, 1000
UNFINISHED = timedelta(days=1)  # how long the rest of a file may take to come


class Housekeeper:
    """Two threads of every worker, of which one keeps house: the one that leads, whether it has a job or not.

    One gives back jobs, the other clears away, which can take long where the store is away. Should two workers lead for
    a moment, as after a pause longer than the lease, nothing is done twice: whoever removes a finding is the one to act
    on it.
    """

    def __init__(self, connection: Redis, settings: Settings, ledger: Ledger, name: str) -> None:
        self.redis, self.settings, self.ledger, self.records = connection, settings, ledger, ledger.records
        self.name, self._sweep_at = name, 0.0
        self._stopped, self._leading = Event(), False
        self._threads = [Thread(target=work, daemon=True) for work in (self._keep, self._clear)]
        self._ended: SimpleQueue[str | None] = SimpleQueue()  # ids of jobs; None: that was the last one
        self.store = Store(settings.files)
        self._tidy_at, self._tidy_here_at = 0.0, 0.0
        self._looked_at: dict[str, str] = {}  # by prefix: the last file that a pass has seen
        ledger.on_end = lambda job: self._ended.put(job.id)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let another lead."""
        self._stopped.set()
        self._ended.put(None)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self) -> None:
        pause, away, seen = 0.0, False, None
        harmless = self.settings.lease_seconds - self.settings.heartbeat_seconds  # no lease runs out meanwhile
        trusted_at = time.monotonic() + 2 * self.settings.heartbeat_seconds  # it may be that Redis is just back
        while not self._stopped.wait(pause):
            pause, asked, last, seen = self.settings.heartbeat_seconds, time.monotonic(), seen, None
            try:
                # Did this process, its machine, or all of them stand still? Was the clock of Redis set?
                away = away or (last is not None and not 0 <= self._now() - last <= harmless)
                self._leading = self.leads()
                if time.monotonic() - asked > self.settings.heartbeat_seconds:
                    raise RedisConnectionError("it took too long to answer")
                if away:
                    # Leases ran out while nobody could renew them: let the others do so first.
                    away, trusted_at = False, time.monotonic() + self.settings.lease_seconds
                if self._leading and time.monotonic() >= trusted_at:
                    self.expire_leases()
                    self.find_missing()
                    self.sweep()
                seen = self._now()
            except RedisError as error:
                log.warning("nobody keeps house: Redis is away", reason=str(error))
                away = True
            except Exception:
                log.exception("housekeeping failed")
        with suppress(RedisError):
            self.redis.eval(RESIGN, 1, LEADER, self.name)

    def _clear(self) -> None:
        while True:
            try:
                with suppress(Empty):
                    if (job_id := self._ended.get(timeout=self.settings.heartbeat_seconds)) is None:
                        return
                    self.forget(job_id)
                if self._leading:
                    self.tidy()
                self.tidy_here()
            except RedisError as error:
                log.warning("nothing is cleared away: Redis is away", reason=str(error))
            except Exception:
                log.exception("clearing away failed")

    def leads(self) -> bool:
        """Whether this one is to keep house until its lease ends, or the next call."""
        return bool(self.redis.eval(LEAD, 1, LEADER, self.name, str(int(self.settings.lease_seconds * 1000))))

    def expire_leases(self) -> None:
        """Give back the jobs of workers that have not been heard of for a lease."""
        for queue in self.ledger.queues.values():
            key = queue.started_job_registry.key
            for raw in cast(list[bytes], self.redis.zrangebyscore(key, 0, self._now())):
                execution = Execution.from_composite_key(raw.decode(), self.redis)
                if self.redis.zrem(key, raw):  # ours to give back
                    self.redis.delete(execution.key)
                    log.warning("lease expired", job_id=execution.job_id)
                    self.ledger.lost(execution.job_id, None)

    def _now(self) -> float:
        """Seconds since the epoch, by the clock that all workers see: that of Redis."""
        seconds, millionths = self.redis.time()
        return seconds + millionths / 1e6

    def find_missing(self) -> None:
        """Give back jobs that are nowhere, or on the way to a worker for longer than that takes: for half a lease.

        A job on its way from place to place is missing but once.
        """
        places = self.ledger.places()
        missing = (self.records.live_ids() | places.between) - places.waiting - places.leased
        seen = {raw.decode() for raw in cast(list[bytes], self.redis.zrange(MISSING, 0, -1))}
        if found := seen - missing:
            self.redis.zrem(MISSING, *found)
        if missing:
            self.redis.zadd(MISSING, dict.fromkeys(missing, self._now()), nx=True)
        since = self._now() - self.settings.lease_seconds / 2
        for raw in cast(list[bytes], self.redis.zrangebyscore(MISSING, 0, since)):
            if self.redis.zrem(MISSING, raw):  # ours to give back
                log.warning("job found in no queue", job_id=raw.decode())
                self.ledger.lost(raw.decode(), None)

    def sweep(self) -> None:
        """End jobs that are overdue, and clear RQ's and the tenants' books; once a lease."""
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + self.settings.lease_seconds
        for job in self.records.live():
            if job.status is JobStatus.queued and job.overdue(now()):
                self.ledger.expired(job.id)
        noted = tenants.running(self.redis)
        places = self.ledger.places()
        tenants.forget(self.redis, noted, places.between | places.leased)
        for queue in self.ledger.queues.values():
            worker_registration.clean_worker_registry(queue)

    def tidy(self) -> None:
        """Clear away what is kept no longer: a little at a time, at most once a minute."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_SECONDS
        for clear in (self._clear_jobs, self._clear_orphans, self._clear_checkpoints):
            with _tolerated():
                clear(time.monotonic() + PASS_SECONDS)

    def tidy_here(self) -> None:
        """Clear away directories `{job_id}-*` that no job works in, left by a horse that was killed on this machine."""
        if time.monotonic() < self._tidy_here_at:
            return
        self._tidy_here_at = time.monotonic() + TIDY_SECONDS
        found = list(self.settings.scratch.glob("job_*-*"))
        live = self.records.live_ids()  # read after the directories, so that none is of a job that began since
        for path in found:
            if path.is_dir() and path.name.rpartition("-")[0] not in live:
                with _tolerated(path=str(path)), suppress(FileNotFoundError):
                    shutil.rmtree(path)
                    log.info("scratch deleted", path=str(path))

    def forget(self, job_id: str) -> None:
        """Clear away what was kept of a job until it ended; what cannot be now later passes find."""
        if self._goes_on(job_id):
            return  # a client had it tried again
        with _tolerated(job_id=job_id):
            self.store.delete(checkpoint_prefix(job_id))
            for file in self.store.files(results_prefix(job_id)):
                if self._came_to_nothing(file):
                    self.store.delete(file.key)
        for left_behind in self.settings.scratch.glob(f"{job_id}-*"):  # by a horse that was killed
            if not self._goes_on(job_id):
                shutil.rmtree(left_behind, ignore_errors=True)

    def _goes_on(self, job_id: str) -> bool:
        job = self.records.find(job_id)
        return job is not None and not job.terminal

    def _came_to_nothing(self, file: FoundFile) -> bool:
        """Whether it was made by an attempt at a job that others took over from, or that failed."""
        job = self.records.find(file.key.split("/")[1])
        if job is None or not job.terminal:
            return False
        return job.status is not JobStatus.succeeded or file.key not in {result_key(job, name) for name in RESULT_FILES}

    def _clear_jobs(self, until: float) -> None:
        """Jobs whose results have expired: the files first, so that no file is left without its record."""
        for job_id in self.records.expired_ids(JOBS_PER_PASS):
            if time.monotonic() > until:
                return
            with _tolerated(job_id=job_id), suppress(IllegalTransition, UnknownJob):
                self._purge(job_id)

    def _purge(self, job_id: str) -> None:
        job = self.records.find(job_id)
        if job is None or not job.terminal or job.expires_at is None or job.expires_at > now():
            return  # a client was faster, who wants it run again
        self.store.delete(results_prefix(job_id))
        self.records.delete(job_id, lambda pipe: pipe.delete(QueuedJob.key_for(job_id)))
        log.info("expired job purged", job_id=job_id)

    def _clear_orphans(self, until: float) -> None:
        """Files that nobody will ask for."""
        for prefix, is_orphan in ((upload_key(""), self._is_no_upload), (results_prefix(""), self._is_no_result)):
            for file in self._page(prefix):
                if time.monotonic() > until:
                    return
                if is_orphan(file, now() - file.last_modified):
                    with _tolerated(key=file.key):
                        self.store.delete(file.key)
                        log.info("file that nobody needs deleted", key=file.key)

    def _page(self, prefix: str) -> Iterator[FoundFile]:
        """Some of the files there. The next pass goes on where this one ends."""
        page = self.store.files(prefix.rstrip("/"), after=self._looked_at.get(prefix, ""), limit=FILES_PER_PASS)
        for file in page:
            yield file
            self._looked_at[prefix] = file.key
        if len(page) < FILES_PER_PASS:
            self._looked_at[prefix] = ""

    def _is_no_upload(self, file: FoundFile, age: timedelta) -> bool:
        """No upload, and no job needs it."""
        # Within its time, a file without a record tells of records that were lost, and may come back.
        if age < (UNFINISHED if file.part else timedelta(seconds=self.settings.upload_ttl_seconds)):
            return False
        upload_id = file.key.removeprefix(upload_key("")).partition("#")[0]
        return self.records.upload(upload_id) is None and not self.records.live_jobs_of(upload_id)

    def _is_no_result(self, file: FoundFile, age: timedelta) -> bool:
        """No result of a job that there is; whoever made it has long given up."""
        if age < UNFINISHED:
            return False
        known = self.records.find(file.key.split("/")[1]) is not None
        return self._came_to_nothing(file) if known else age >= timedelta(seconds=self.settings.result_ttl_seconds)

    def _clear_checkpoints(self, until: float) -> None:
        """Those of jobs that ended with nobody there to clear up, or while the store was away."""
        kept = {file.key.split("/")[1] for file in self._page(checkpoint_prefix(""))}
        for job_id in kept - self.records.live_ids():
            if time.monotonic() > until:
                return
            with _tolerated(job_id=job_id):
                self.store.delete(checkpoint_prefix(job_id))
                log.info("checkpoints deleted", job_id=job_id)


@contextmanager
def _tolerated(**what: str) -> Iterator[None]:
    """What cannot be deleted now is tried again by a later pass."""
    try:
        yield
    except (BaseError, OSError) as error:
        log.warning("not cleared away", reason=brief(error), **what)
