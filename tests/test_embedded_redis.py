"""The private Redis: one a directory, keeps what it holds, leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from redis import Redis

from app import embedded_redis
from app.embedded_redis import RedisUnavailable
from tests.processes import alive, wait_until

STARTER = """
import sys, time
from pathlib import Path
from app import embedded_redis
server = embedded_redis.start(Path(sys.argv[1]))
print(server.process.pid if server.process else 0, flush=True)
time.sleep(60)
"""


def test_what_it_holds_survives_a_restart(tmp_path: Path) -> None:
    with embedded_redis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        client.set("clip", "bear")
    with embedded_redis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        assert client.get("clip") == b"bear"
        settings = client.config_get("*")
        assert (settings["maxmemory-policy"], settings["appendonly"], settings["port"]) == ("noeviction", "yes", "0")


def test_a_second_caller_joins_the_first(tmp_path: Path) -> None:
    with embedded_redis.start(tmp_path) as first, embedded_redis.start(tmp_path) as second:
        assert second.url == first.url
        assert second.process is None
        second.stop()
        with Redis.from_url(first.url) as client:
            assert client.ping()


def test_it_dies_with_its_parent_and_the_next_one_finds_the_data(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        with embedded_redis.start(tmp_path) as joined, Redis.from_url(joined.url) as client:
            assert joined.process is None
            client.set("clip", "bear")
        assert os.getpgid(pid) == pid
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    with embedded_redis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        assert server.process is not None
        assert client.get("clip") == b"bear"


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("long " * 20) / ("path%2F" * 10)
    with embedded_redis.start(deep) as server, embedded_redis.start(deep) as joined:
        assert joined.url == server.url
        assert (deep / "redis" / "redis.log").exists()
        with Redis.from_url(server.url) as client:
            assert client.ping()
    embedded_redis.socket_path(deep.resolve() / "redis").parent.rmdir()


def test_a_path_with_spaces_and_per_cents_works(tmp_path: Path) -> None:
    with embedded_redis.start(tmp_path / "my clips 100%") as server, Redis.from_url(server.url) as client:
        assert client.ping()


def test_only_the_main_thread_may_start_it(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def try_it() -> None:
        try:
            embedded_redis.start(tmp_path)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_a_missing_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VXL_REDIS_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(RedisUnavailable, match=r"VXL_REDIS_SERVER names .*nowhere"):
        embedded_redis.start(tmp_path)


def test_a_server_that_ends_at_once_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VXL_REDIS_SERVER", "false")
    with pytest.raises(RedisUnavailable, match="redis-server ended"):
        embedded_redis.start(tmp_path)
