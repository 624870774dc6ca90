"""A TCP relay in front of Redis, or another server, that can hold, delay and cut what goes through it."""

import re
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote


class Trap:
    """Holds a request that matches, and the rest of its connection. after: it gets through, its answer does not."""

    def __init__(self, pattern: bytes, after: bool = False) -> None:
        self.pattern, self.after = re.compile(pattern, re.DOTALL), after
        self.sprung, self.released, self.dropped = (threading.Event() for _ in range(3))


class Proxy:
    """Listens on a port of its own; server: URL of a Redis on a socket, or a port of this machine.

    delay: seconds that each request waits. url: what clients of Redis are to be given.
    """

    def __init__(self, server: str | int) -> None:
        self.delay = 0.0
        self.server = server if isinstance(server, int) else unquote(server.removeprefix("unix://"))
        self._trap: Trap | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock, self._open = threading.Lock(), True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._listener.close()
        self.cut()

    def set(self, pattern: bytes, after: bool = False) -> Trap:
        """For the next request that matches."""
        self._trap = Trap(pattern, after)
        return self._trap

    def release(self, drop: bool = False) -> None:
        """Let go of what is held; drop: it never arrives, its connection ends."""
        if self._trap:
            if drop:
                self._trap.dropped.set()
            self._trap.released.set()
        self._trap = None

    def cut(self) -> None:
        """Close all connections, and those that are made from now on at once, until `mend`."""
        self._open = False
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in (end for pair in pairs for end in pair):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        self._open = True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self._open:
                    client.close()
                    continue
                server = socket.socket(socket.AF_INET if isinstance(self.server, int) else socket.AF_UNIX)
                try:
                    server.connect(("127.0.0.1", self.server) if isinstance(self.server, int) else self.server)
                except OSError:  # it is not there
                    _close(client, server)
                    continue
                with self._lock:
                    self._pairs.append((client, server))
                held = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, held), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client, held), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                time.sleep(self.delay)
                trap = self._trap
                if trap and not trap.sprung.is_set() and trap.pattern.search(data):
                    if trap.after:
                        held.set()
                        server.sendall(data)
                    trap.sprung.set()
                    trap.released.wait()
                    held.clear()
                    if trap.dropped.is_set():
                        break
                    if trap.after:
                        continue
                server.sendall(data)
        _close(client, server)

    def _answers(self, server: socket.socket, client: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                while held.is_set():
                    time.sleep(0.05)
                client.sendall(data)
        _close(client, server)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
