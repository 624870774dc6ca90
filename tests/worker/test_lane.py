"""Work that goes on beside the solver."""

import threading
import time

import pytest
import torch

from worker.lane import Lane, threads_beside


def test_pieces_are_done_in_order_beside_the_caller_and_the_end_waits_for_all() -> None:
    done: list[tuple[int, int]] = []

    def slow(n: int) -> None:
        time.sleep(0.001)
        done.append((n, threading.get_ident()))

    with Lane() as lane:
        for n in range(100):
            lane.put(slow, n)
    assert [n for n, _ in done] == list(range(100))
    threads = {thread for _, thread in done}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_who_gives_too_much_waits() -> None:
    """Or frames would pile up that are made faster than they are encoded."""
    go, given = threading.Event(), []

    def give() -> None:
        with Lane() as lane:
            for n in range(100):
                lane.put(go.wait)
                given.append(n)

    giver = threading.Thread(target=give)
    giver.start()
    while len(given) < 32:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(given) == 32
    go.set()
    giver.join(10)
    assert len(given) == 100


def test_what_fails_is_raised_and_the_rest_is_not_done() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), Lane() as lane:
        lane.put(fail)
        while True:  # the next calls tell
            lane.put(time.sleep, 0.001)
    with pytest.raises(OSError, match="no space"), Lane() as lane:
        lane.put(fail)
    with pytest.raises(KeyError), Lane() as lane:
        lane.put(time.sleep, 0.2)
        lane.put(done.append, 1)
        raise KeyError
    assert done == []


def test_threads_beside_the_solver_take_a_core_each_and_the_solver_keeps_its_own() -> None:
    """Or OpenMP would count more threads than cores, and have the solver's fall asleep whenever they wait."""
    before = torch.get_num_threads()
    with threads_beside(2) as threads:
        both = threading.Barrier(2)  # so that each of them is asked
        waits = [threads.submit(both.wait, 10) for _ in range(2)]
        asked = [threads.submit(torch.get_num_threads) for _ in range(8)]
        assert {one.result() for one in asked} == {1} and all(one.exception() is None for one in waits)
    assert torch.get_num_threads() == before
