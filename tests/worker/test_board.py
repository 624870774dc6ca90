"""Runs that are given away, and taken back: real Redis."""

import time
from collections.abc import Collection

import pytest
from redis import Redis

from worker import board
from worker.board import SHARED, Board, Claim


def claim(
    redis: Redis, holder: str = "helper", seconds: float = 60, without: Collection[tuple[str, float]] = ()
) -> Claim | None:
    return board.claim(redis, holder, seconds, without)


def runs_of(*claims: Claim | None) -> list[int | None]:
    return [one.run if one else None for one in claims]


@pytest.fixture
def offered(redis_client: Redis) -> Board:
    """Runs 1 to 3 of a job."""
    one = Board(redis_client, "job_1")
    one.offer([1, 2, 3])
    return one


def test_the_last_run_goes_first_and_none_twice(redis_client: Redis, offered: Board) -> None:
    assert runs_of(*(claim(redis_client) for _ in range(4))) == [3, 2, 1, None]


def test_the_job_that_was_offered_first_goes_first(redis_client: Redis, offered: Board) -> None:
    Board(redis_client, "job_0").offer([5])
    found = [claim(redis_client) for _ in range(4)]
    assert [one.job_id if one else None for one in found] == ["job_1", "job_1", "job_1", "job_0"]


def test_a_job_may_be_left_alone_until_it_is_offered_again(redis_client: Redis, offered: Board) -> None:
    first = claim(redis_client)
    assert first is not None
    strange = {(first.job_id, first.offered)}
    assert claim(redis_client, without=strange) is None
    offered.offer([1, 2, 3])
    assert runs_of(claim(redis_client, without=strange)) == [3]


def test_what_another_is_at_is_not_taken_back_until_its_claim_ends(redis_client: Redis, offered: Board) -> None:
    helping = claim(redis_client, seconds=1)
    assert helping is not None
    assert (offered.take(3), offered.take(2)) == (False, True)
    assert helping.held()  # renewed
    time.sleep(1.1)
    assert offered.take(3)
    assert not helping.held()
    helping.let_go("done")  # changes nothing any more
    assert redis_client.hget("vxl:job:job_1:runs", "3") == b"ours"


def test_nobody_but_who_has_the_job_takes_what_ran_out(redis_client: Redis, offered: Board) -> None:
    helping = claim(redis_client, seconds=0.05)
    assert helping is not None
    time.sleep(0.1)
    assert runs_of(*(claim(redis_client) for _ in range(3))) == [2, 1, None]
    assert offered.take(3)
    assert not helping.held()


@pytest.mark.parametrize(("state", "again"), [("free", 3), ("left", 2), ("done", 2)])
def test_what_is_let_go_is_another_s_or_nobody_s(redis_client: Redis, offered: Board, state: str, again: int) -> None:
    helping = claim(redis_client)
    assert helping is not None
    helping.let_go(state)
    assert runs_of(claim(redis_client, "another")) == [again]


def test_progress_adds_up_until_it_is_taken_back(redis_client: Redis, offered: Board) -> None:
    offered.tell(3, 20, 40)
    offered.tell(2, 20, 0)
    offered.tell(2, 20, 10)
    assert offered.far() == (40, 50)
    assert offered.take(3)
    assert offered.far() == (20, 10)


def test_nothing_is_left_of_a_board_that_is_closed(redis_client: Redis, offered: Board) -> None:
    helping = claim(redis_client)
    assert helping is not None
    offered.tell(3, 1, 1)
    with redis_client.pipeline() as pipe:
        board.close("job_1", pipe)
        pipe.execute()
    offered.tell(3, 2, 2)
    assert not helping.held()
    assert claim(redis_client) is None
    assert redis_client.keys("*") == []
    assert offered.take(1), "who has the job does it alone then"
    assert redis_client.zscore(SHARED, "job_1") is None
