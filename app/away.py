"""Whether an error tells that what the service needs is away for now, and will be back."""

import re

from obstore.exceptions import GenericError
from redis import exceptions as redis_errors

PASSING = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
)
# What Redis answers while it takes no writes: its disk is full, a replica is missing or was promoted, it has to wait.
# Of a script it may say so in the midst of a sentence.
REFUSALS = re.compile(r"\b(MISCONF|NOREPLICAS|READONLY|OOM|BUSY|LOADING|MASTERDOWN)\b")


def redis_away(error: BaseException) -> bool:
    """Redis does not answer, or takes no writes."""
    refused = isinstance(error, redis_errors.RedisError) and REFUSALS.search(str(error))
    return isinstance(error, PASSING) or bool(refused)


def away(error: BaseException) -> bool:
    """The same of Redis, or S3 does not answer."""
    return redis_away(error) or isinstance(error, GenericError)
