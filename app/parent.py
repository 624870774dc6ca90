"""Ties a process to the one that started it, so that none is left behind where that one is killed outright."""

import ctypes
import os
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def tied_to(parent: int, number: int) -> Callable[[], None]:
    """What a child runs to be sent a signal at its parent's death; only Linux knows of such ties.

    parent: the process that the child must still have, else it ends at once
    number: the signal

    The kernel means the thread that started the child, so that one has to live as long. All that the result needs is
    loaded here: it may run between fork and exec.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def tie() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the tie was made
            os._exit(1)

    return tie
