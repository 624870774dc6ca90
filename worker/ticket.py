"""The right to write a job's record: it is good until somebody takes the job back."""

from dataclasses import dataclass

from redis import Redis


class LeaseLost(Exception):
    """The job is no longer ours; nothing was written."""


@dataclass(frozen=True)
class Ticket:
    """An execution among those under way. registry: their sorted set, by when each lease ends. entry: its own there."""

    registry: str
    entry: str

    def held(self, redis: Redis) -> bool:
        return redis.zscore(self.registry, self.entry) is not None
