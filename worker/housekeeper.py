"""Finds jobs that were lost with their worker, or that nobody ran in time, and gives them back or ends them."""

import time
from typing import cast

import structlog
from redis import Redis
from rq import worker_registration
from rq.executions import Execution

from app.contract import JobStatus
from app.settings import Settings
from worker.ledger import Ledger, overdue

log = structlog.get_logger(__name__)

MISSING = "vxl:missing"  # sorted set: ids of jobs found in no place, by the time when first seen so
SWEEPING = "vxl:sweeping"  # held by the worker that sweeps


class Housekeeper:
    """Run by every idle worker. Any number may run at once: whoever removes a finding is the one to act on it."""

    def __init__(self, connection: Redis, settings: Settings, ledger: Ledger) -> None:
        self.redis, self.settings, self.ledger = connection, settings, ledger

    def expire_leases(self) -> None:
        """Give back the jobs of workers that have not been heard of for a lease."""
        for queue in self.ledger.queues.values():
            key = queue.started_job_registry.key
            for raw in cast(list[bytes], self.redis.zrangebyscore(key, 0, time.time())):
                execution = Execution.from_composite_key(raw.decode(), self.redis)
                if self.redis.zrem(key, raw):  # ours to give back
                    self.redis.delete(execution.key)
                    log.warning("lease expired", job_id=execution.job_id)
                    self.ledger.lost(execution.job_id, None)

    def sweep(self) -> None:
        """Find jobs that are nowhere, or overdue; one worker at a time, once a lease."""
        lease = self.settings.lease_seconds
        if not self.redis.set(SWEEPING, 1, nx=True, px=int(lease * 1000)):
            return
        places = self.ledger.places()
        unfinished = {job.id: job for job in self.ledger.records.newest() if not job.terminal}
        for job in unfinished.values():
            if job.status is JobStatus.queued and overdue(job):
                self.ledger.expired(job.id)
        self._give_back((unfinished.keys() | places.between) - places.waiting - places.leased, lease)
        for queue in self.ledger.queues.values():
            worker_registration.clean_worker_registry(queue)

    def _give_back(self, missing: set[str], lease: float) -> None:
        """Twice found missing, a lease apart, is lost: a job on its way from place to place is missing but once."""
        seen = {raw.decode() for raw in cast(list[bytes], self.redis.zrange(MISSING, 0, -1))}
        if found := seen - missing:
            self.redis.zrem(MISSING, *found)
        if missing:
            self.redis.zadd(MISSING, dict.fromkeys(missing, time.time()), nx=True)
        for raw in cast(list[bytes], self.redis.zrangebyscore(MISSING, 0, time.time() - lease)):
            if self.redis.zrem(MISSING, raw):  # ours to give back
                log.warning("job found in no queue", job_id=raw.decode())
                self.ledger.lost(raw.decode(), None)
