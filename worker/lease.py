"""A worker's claim on a job, and where RQ has jobs."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self, cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as QueuedJob
from rq.utils import now

from worker.ticket import Ticket

# Sorted set: ids of jobs on their way to a worker, or in no place, by when that was first so. Whoever takes a job notes
# it, and not who finds it: else a job that was lost with the worker that keeps house would be found late.
MISSING = "vxl:missing"

# KEYS: a registry. ARGV: an entry, seconds. By the clock of Redis, as workers may have any.
RENEW = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', time[1] + time[2] / 1e6 + ARGV[2], ARGV[1])
"""


@dataclass(frozen=True)
class Lease:
    """A worker's claim on a job, good for as long as it is renewed and nobody has taken it back."""

    job: QueuedJob
    execution: Execution

    @property
    def ticket(self) -> Ticket:
        """For the horse, which writes the record, too."""
        return Ticket(self.job.started_job_registry.key, self.execution.composite_key)

    def held(self) -> bool:
        return self.ticket.held(self.job.connection)

    def renew(self, pipe: Pipeline, seconds: int) -> None:
        """For so long, unless it was lost."""
        self.execution.last_heartbeat = now()
        self.execution.save(seconds, pipe)
        pipe.eval(RENEW, 1, self.ticket.registry, self.ticket.entry, str(seconds))
        ExecutionRegistry(self.job.id, self.job.connection).add(self.execution, seconds, pipe, xx=True)

    def release(self, pipe: Pipeline) -> None:
        self.execution.delete(job=self.job, pipeline=pipe)


@dataclass(frozen=True)
class Places:
    """Where RQ has jobs: waiting, leased to a worker, or in between."""

    waiting: frozenset[str]
    between: frozenset[str]
    leased: frozenset[str]

    @classmethod
    def seen(cls, redis: Redis, queues: Collection[Queue]) -> Self:
        """All at one moment."""
        with redis.pipeline() as pipe:
            for queue in queues:
                pipe.lrange(queue.key, 0, -1)
                pipe.lrange(queue.intermediate_queue_key, 0, -1)
                pipe.zrange(queue.started_job_registry.key, 0, -1)
            answers = cast(list[list[bytes]], pipe.execute())
        waiting, between, leased = (
            frozenset(raw.decode().partition(":")[0] for ids in answers[kind::3] for raw in ids) for kind in range(3)
        )
        return cls(waiting, between - leased, leased)
