"""When an attempt is given up, and what a horse that died is taken to have died of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from worker import board, stable
from worker.attempt import STALL_TIMES, Attempt, Help, Reason
from worker.board import Board
from worker.horse import Ended


def an_attempt() -> Attempt:
    return Attempt(cast(Any, None), cast(Any, None))


def test_silence_counts_as_a_hang_after_the_limit() -> None:
    attempt = an_attempt()
    assert [attempt.hangs(silent, limit=5) for silent in (0.2, 4.9, 5.1)] == [False, False, True]


def test_the_limit_grows_with_what_work_takes() -> None:
    attempt = an_attempt()
    for silent in (1.0, 4.0, 0.1):  # a piece of work took four seconds
        attempt.hangs(silent, limit=5)
    assert [attempt.hangs(silent, limit=5) for silent in (6.0, 4 * STALL_TIMES - 1, 4 * STALL_TIMES + 1)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("reason", "how", "state"),
    [
        (None, "finished", "done"),
        ("preempt", "preempted", "free"),
        ("preempt", "lost", "free"),  # it was killed to make way
        (None, "overtaken", "free"),
        ("stall", "lost", "left"),
        (None, "lost", "left"),
        (None, "out_of_memory", "left"),
        (None, "failed", "left"),
    ],
)
def test_a_run_that_does_not_work_at_a_helper_is_no_other_helper_s(
    redis_client: Redis, reason: Reason | None, how: Any, state: str
) -> None:
    Board(redis_client, "job_1").offer([1])
    claim = board.claim(redis_client, "helper", 60, ())
    assert claim is not None
    Help(cast(Any, None), claim, reason).settle(cast(Any, None), Ended(how))
    assert redis_client.hget("vxl:job:job_1:runs", "1") == state.encode()


@dataclass
class Process:
    """One that has ended."""

    exitcode: int

    def join(self, seconds: float) -> None: ...


@pytest.mark.parametrize(
    ("code", "killed", "more", "expected"),
    [
        (-9, False, 1, (True, "the horse died of SIGKILL, for want of memory")),
        (-9, False, 0, (False, "the horse died of SIGKILL")),
        (-9, True, 1, (False, "the horse died of SIGKILL")),
        (-11, False, 1, (False, "the horse died of SIGSEGV")),
        (1, False, 1, (False, "the horse exited with 1")),
    ],
)
def test_the_system_tells_whom_it_killed_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, killed: bool, more: int, expected: tuple[bool, str]
) -> None:
    counts = tmp_path / "memory.events"
    monkeypatch.setattr(stable, "OOM_COUNTS", (tmp_path / "none", counts))
    counts.write_text("low 0\noom 3\noom_kill 2\n")
    horse = stable.Horse.__new__(stable.Horse)
    horse._process, horse._killed, horse._oom_kills = cast(Any, Process(code)), killed, stable.oom_kills()
    counts.write_text(f"low 0\noom 3\noom_kill {2 + more}\n")
    gone = horse._obituary()
    assert (gone.out_of_memory, str(gone)) == expected


def test_this_machine_counts_them() -> None:
    assert any(path.exists() for path in stable.OOM_COUNTS)
    assert stable.oom_kills() >= 0
