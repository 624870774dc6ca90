"""While Redis is away the API says so at once, writes nothing half, and finds it again by itself."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from app import embedded_redis
from app.away import redis_away
from tests.app.conftest import assert_problem


def test_redis_goes_and_comes_back(serve: Callable[..., Any], clip: bytes, tmp_path: Path) -> None:
    own = embedded_redis.start(tmp_path)
    with serve(redis_url=own.url) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        upload = api.post("/v1/uploads", content=clip).json()
        body = {"source": {"upload_id": upload["id"]}, "task": "deblur"}
        job = api.post("/v1/jobs", json=body).json()
        received: list[str] = []
        listener = threading.Thread(target=listen, args=(server.url + job["urls"]["events"], received))
        listener.start()
        while not received:
            time.sleep(0.01)

        own.stop()
        for method, path, content in [
            ("GET", job["urls"]["self"], None),
            ("GET", "/v1/jobs", None),
            ("GET", job["urls"]["events"], None),
            ("POST", job["urls"]["cancel"], None),
            ("POST", "/v1/uploads", clip),
        ]:
            started = time.monotonic()
            response = api.request(method, path, content=content)
            assert assert_problem(response, 503, "unavailable")["retryable"]
            assert time.monotonic() - started < 5
        assert_problem(api.post("/v1/jobs", json=body), 503, "unavailable")
        assert [path.name for path in server.files] == [upload["id"]]
        problem = assert_problem(api.get("/readyz"), 503, "not_ready")
        assert {error["field"] for error in problem["errors"]} == {"redis", "worker"}
        assert api.get("/livez").status_code == 200

        with embedded_redis.start(tmp_path) as again:
            assert again.url == own.url
            assert api.get(job["urls"]["self"]).json() == job
            assert api.get("/v1/jobs").json()["data"] == [job]
            assert api.post(job["urls"]["cancel"]).json()["status"] == "canceled"
            listener.join(10)
            assert received == ["event: status", "event: status", "event: final"]


def test_a_redis_that_hangs_does_not_hang_the_api(serve: Callable[..., Any], tmp_path: Path) -> None:
    with (
        embedded_redis.start(tmp_path) as own,
        serve(redis_url=own.url) as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        assert api.get("/v1/jobs").status_code == 200
        assert own.process is not None
        own.process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert_problem(api.get("/v1/jobs"), 503, "unavailable")
            assert time.monotonic() - started < 4
        finally:
            own.process.send_signal(signal.SIGCONT)
        assert api.get("/v1/jobs").status_code == 200


def test_a_redis_that_takes_no_writes_is_away(serve: Callable[..., Any], clip: bytes, tmp_path: Path) -> None:
    """Its disk is full, or its replica is gone: in a script, too, which tells it in other words."""
    with (
        embedded_redis.start(tmp_path) as own,
        Redis.from_url(own.url) as redis,
        serve(redis_url=own.url) as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        upload = api.post("/v1/uploads", content=clip).json()
        body = {"source": {"upload_id": upload["id"]}, "task": "deblur"}
        job = api.post("/v1/jobs", json=body).json()
        redis.config_set("min-replicas-to-write", 1)
        assert assert_problem(api.post("/v1/jobs", json=body), 503, "unavailable")["retryable"]
        assert_problem(api.post(job["urls"]["cancel"]), 503, "unavailable")
        assert api.get(job["urls"]["self"]).json() == job
        with pytest.raises(RedisError) as in_script:
            redis.eval("redis.call('SET', KEYS[1], 1)", 1, "key")
        assert redis_away(in_script.value)
        redis.config_set("min-replicas-to-write", 0)
        assert api.post(job["urls"]["cancel"]).json()["status"] == "canceled"


def test_what_redis_will_always_refuse_is_our_error(serve: Callable[..., Any], redis_client: Redis) -> None:
    redis_client.set("vxl:jobs", "no sorted set")
    with serve() as server, httpx.Client(base_url=server.url) as api:
        assert_problem(api.get("/v1/jobs"), 500, "internal_error")


def listen(url: str, received: list[str]) -> None:
    with httpx.stream("GET", url, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("event"):
                received.append(line)  # noqa: PERF401 - the test watches it grow
