"""A real Redis for every test that asks for one."""

from collections.abc import Iterator

import pytest
from redis import Redis

from app import embedded_redis
from app.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server for the whole run."""
    with embedded_redis.start(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """A client of that server, its database empty."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client
