"""Work that goes on beside the solver: frames that are ready are encoded and looked at while the next ones are made."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import torch

T = TypeVar("T")
_MOST_WAITING: Final = 32  # pieces of work; a frame of 1280x768 waits in some 8 MB


def threads_beside(count: int = 1) -> ThreadPoolExecutor:
    """Threads that leave the solver its cores: torch takes one core for what each of them does.

    OpenMP counts the threads of all teams there are. Once they are more than the cores, those of the solver's no longer
    wait for one another awake, and its networks take a tenth longer for as long as another team is there, busy or not.
    """
    torch.get_num_threads()  # settles that of this thread; one that has none yet takes what was set last, anywhere
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


class Lane:
    """Threads that take up one piece of work after the other; the end of the context waits for all, or drops the rest.

    What a piece raises is raised by the next call here, or by the end. More than a few dozen pieces have to wait.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads_beside(threads)
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def put(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Begin it after all that was put here before, with a single thread once that is done."""
        while self._waiting and (len(self._waiting) >= _MOST_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        begun = self._threads.submit(work, *args)
        self._waiting.append(begun)
        return begun

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and error is None:
                self._waiting.popleft().result()
        finally:
            self._threads.shutdown(cancel_futures=True)
