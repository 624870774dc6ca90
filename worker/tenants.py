"""How many jobs of one tenant run at a time.

vxl:tenants        hash: the tenant of each job that has one, by the job's id
vxl:tenant:{name}  set: ids of the jobs of a tenant that a worker has
"""

from typing import cast

from redis import Redis
from redis.client import Pipeline

from app.records import TENANTS
from worker.lease import MISSING

RUNNING = "vxl:tenant:"

# KEYS: a queue, its intermediate list, TENANTS, MISSING. ARGV: RUNNING, jobs of a tenant, `take` or `look`.
# The first job that may run, in the order of the queue.
NEXT = """
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local tenant = redis.call('HGET', KEYS[3], id)
    if not tenant or redis.call('SCARD', ARGV[1] .. tenant) < tonumber(ARGV[2]) then
        if ARGV[3] == 'take' then
            redis.call('LREM', KEYS[1], 1, id)
            redis.call('RPUSH', KEYS[2], id)
            redis.call('ZADD', KEYS[4], redis.call('TIME')[1], id)
            if tenant then redis.call('SADD', ARGV[1] .. tenant, id) end
        end
        return id
    end
end
return false
"""
# KEYS: TENANTS. ARGV: RUNNING, a job.
RELEASE = """
local tenant = redis.call('HGET', KEYS[1], ARGV[2])
if tenant then redis.call('SREM', ARGV[1] .. tenant, ARGV[2]) end
"""


def take(redis: Redis, queue: str, intermediate: str, limit: int) -> bytes | None:
    """Move the first job whose tenant has fewer than `limit` that run from a queue to its intermediate list."""
    return _next(redis, queue, intermediate, limit, "take")


def any_ready(redis: Redis, queue: str, intermediate: str, limit: int) -> bool:
    """Whether there is one."""
    return _next(redis, queue, intermediate, limit, "look") is not None


def _next(redis: Redis, queue: str, intermediate: str, limit: int, what: str) -> bytes | None:
    return cast(bytes | None, redis.eval(NEXT, 4, queue, intermediate, TENANTS, MISSING, RUNNING, str(limit), what))


def release(job_id: str, pipe: Pipeline) -> None:
    """Part of whatever takes a job from its worker."""
    pipe.eval(RELEASE, 1, TENANTS, RUNNING, job_id)


def running(redis: Redis) -> dict[str, set[str]]:
    """What is noted of each tenant's jobs, by the key of it."""
    keys = sorted(raw.decode() for raw in redis.scan_iter(f"{RUNNING}*", count=1000))
    return {key: {raw.decode() for raw in cast(set[bytes], redis.smembers(key))} for key in keys}


def forget(redis: Redis, noted: dict[str, set[str]], taken: frozenset[str]) -> None:
    """Those that no worker has, should any have been left. taken: jobs that workers have, read after `noted` was."""
    for key, jobs in noted.items():
        if gone := jobs - taken:
            redis.srem(key, *gone)
