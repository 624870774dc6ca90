"""Where a worker with a long clip offers runs of it to workers that have nothing to do.

vxl:shared                 sorted set: ids of the jobs that have runs to give away, by the time when they were offered
vxl:job:{id}:runs          hash: for each run its state: `free`, `ours` (the worker's that has the job), `done`,
                           `left` (only the worker that has the job may take it now), or `{until} {helper}`
vxl:job:{id}:runs:far      hash: for each run under way elsewhere, how far it is: `{inverted} {denoised}` frames

Whatever happens to the job, the board goes with its lease (`Ledger`): who helped finds its claim gone, and stops.
Nothing here decides a job's fate, and a run that is solved twice comes out the same.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from worker.ticket import Ticket

log = structlog.get_logger(__name__)

SHARED = "vxl:shared"

# KEYS[1]: runs of a job. ARGV: who asks, milliseconds until the claim ends, the runs it may have, in order. One whose
# claim ended is not among them: whatever ended its helper may end the next.
CLAIM = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for n = 3, #ARGV do
    local state = redis.call('HGET', KEYS[1], ARGV[n])
    if state == 'free' then
        redis.call('HSET', KEYS[1], ARGV[n], string.format('%d %s', now + ARGV[2], ARGV[1]))
        return ARGV[n]
    end
end
return false
"""
# KEYS[1]: the same. ARGV: who holds it, the run, milliseconds.
RENEW = """
local state = redis.call('HGET', KEYS[1], ARGV[2])
if not state or string.match(state, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[2], string.format('%d %s', now + ARGV[3], ARGV[1]))
return 1
"""
# The same. ARGV: who holds it, the run, its state from now on.
LET_GO = """
local state = redis.call('HGET', KEYS[1], ARGV[2])
if not state or string.match(state, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
"""
# KEYS[1]: the same. ARGV: the run. Of the worker that has the job; 0 where another is at it.
TAKE = """
local state = redis.call('HGET', KEYS[1], ARGV[1])
local till = state and string.match(state, '^(%d+) ')
if till then
    local time = redis.call('TIME')
    if tonumber(till) >= time[1] * 1000 + math.floor(time[2] / 1000) then return 0 end
end
if state then redis.call('HSET', KEYS[1], ARGV[1], 'ours') end
redis.call('HDEL', KEYS[1] .. ':far', ARGV[1])
return 1
"""
# KEYS: runs of a job, SHARED, the registry of executions. ARGV: an execution there, a job, the time, runs; nothing is
# offered where the execution is no longer there.
OFFER = """
if ARGV[1] ~= '' and not redis.call('ZSCORE', KEYS[3], ARGV[1]) then return end
redis.call('DEL', KEYS[1], KEYS[1] .. ':far')
for n = 4, #ARGV do redis.call('HSET', KEYS[1], ARGV[n], 'free') end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
"""
# KEYS[1]: runs of a job. ARGV: the run, how far it is.
TELL = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1] .. ':far', ARGV[1], ARGV[2]) end"


def _runs(job_id: str) -> str:
    return f"vxl:job:{job_id}:runs"


def close(job_id: str, pipe: Pipeline) -> None:
    """Part of whatever takes a job from its worker."""
    pipe.zrem(SHARED, job_id)
    pipe.delete(_runs(job_id), f"{_runs(job_id)}:far")


@dataclass(frozen=True)
class Claim:
    """A run of another worker's job, ours for as long as it is renewed. offered: when, which tells offers apart."""

    redis: Redis
    job_id: str
    offered: float
    run: int
    holder: str
    seconds: float

    def held(self) -> bool:
        """Renew it; False where it is ours no longer."""
        return bool(self.redis.eval(RENEW, 1, _runs(self.job_id), self.holder, str(self.run), _ms(self.seconds)))

    def let_go(self, state: str) -> None:
        """`done`: its segment is kept. `free`: another may go on. `left`: none but the worker that has the job."""
        self.redis.eval(LET_GO, 1, _runs(self.job_id), self.holder, str(self.run), state)


def claim(redis: Redis, holder: str, seconds: float, without: Collection[tuple[str, float]]) -> Claim | None:
    """A run to help with: of the job that was offered first, the last one that is free.

    without: jobs not to help, and when they were offered
    """
    for raw, offered in cast(list[tuple[bytes, float]], redis.zrange(SHARED, 0, -1, withscores=True)):
        job_id = raw.decode()
        if (job_id, offered) in without:
            continue
        runs = sorted(map(int, cast(list[bytes], redis.hkeys(_runs(job_id)))), reverse=True)
        found = cast(bytes | None, redis.eval(CLAIM, 1, _runs(job_id), holder, _ms(seconds), *map(str, runs)))
        if found is not None:
            return Claim(redis, job_id, offered, int(found), holder, seconds)
    return None


class Board:
    """What the worker that has a job sees of it. ticket: its right to offer anything."""

    def __init__(self, redis: Redis, job_id: str, ticket: Ticket | None = None) -> None:
        self.redis, self.job_id, self.ticket = redis, job_id, ticket

    def offer(self, runs: Sequence[int]) -> None:
        """Give these away to whoever has time; nothing where Redis is away."""
        registry, entry = (self.ticket.registry, self.ticket.entry) if self.ticket else ("", "")
        keys = (_runs(self.job_id), SHARED, registry)
        try:
            self.redis.eval(OFFER, 3, *keys, entry, self.job_id, str(time.time()), *map(str, runs))
        except RedisError as error:
            log.warning("no runs offered: Redis is away", error=str(error))

    def take(self, run: int) -> bool:
        """Have it ourselves, or what came of it; False where another is at it, or may be: while Redis is away."""
        try:
            return bool(self.redis.eval(TAKE, 1, _runs(self.job_id), str(run)))
        except RedisError as error:
            log.warning("no run taken: Redis is away", error=str(error))
            return False

    def far(self) -> tuple[int, int]:
        """How many frames others have inverted, and denoised, in runs not taken back yet: frames times steps."""
        told = [raw.split() for raw in cast(list[bytes], self.redis.hvals(f"{_runs(self.job_id)}:far"))]
        return sum(int(one[0]) for one in told), sum(int(one[1]) for one in told)

    def tell(self, run: int, inverted: int, denoised: int) -> None:
        """Of a run that we help with; nothing where the board is closed."""
        self.redis.eval(TELL, 1, _runs(self.job_id), str(run), f"{inverted} {denoised}")


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
