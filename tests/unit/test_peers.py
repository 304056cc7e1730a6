"""Processes that train together: the fault of one ends them all, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from two_processes import TWO, in_two_processes

from opdlab.errors import AwayError, ServerError
from opdlab.peers import failing_together, gathered, meet, several_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def broken(rank: int) -> None:
    if rank == 1:
        raise ServerError("the server has other weights")


def at_the_end(rank: int) -> None:
    """As in a rollout whose log-probabilities are too far off: the others know nothing of it."""
    assert gathered(rank, alone=False) == [0, 1]
    broken(rank)


def before_others_gather(rank: int) -> None:
    """As where a server cannot be reached by one of them."""
    broken(rank)
    gathered(rank, alone=False)
    gathered(rank, alone=False)


def inside(rank: int) -> None:
    with failing_together():
        broken(rank)
    gathered(rank, alone=False)


def first(rank: int) -> None:
    broken(1 - rank)


def told(work: Callable[[int], None]) -> Callable[[int], str]:
    """What a process says at its end."""

    def at_the_end(rank: int) -> str:
        assert several_processes()
        with failing_together():
            work(rank)
        return "went on"

    return at_the_end


@pytest.mark.parametrize("work", [at_the_end, before_others_gather, inside])
def test_all_processes_end_by_the_fault_of_one(tmp_path: Path, work: Callable[[int], None]) -> None:
    reason = "ServerError: the server has other weights"
    everywhere = f"PeerError: training process 1 failed, and all end with it: {reason}"
    assert in_two_processes(tmp_path, told(work)) == [everywhere] * TWO


def away(rank: int) -> None:
    if rank == 1:
        raise AwayError("http://a: no answer")
    gathered(rank, alone=False)


def test_a_server_that_is_away_is_told_by_every_process_as_such(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, told(away)) == ["AwayError: http://a: no answer"] * TWO


def test_the_first_process_raises_its_own_fault(tmp_path: Path) -> None:
    own, other = in_two_processes(tmp_path, told(first))
    assert own == "ServerError: the server has other weights"
    assert other.startswith("PeerError: training process 0 failed")


def test_where_nothing_fails_all_go_on(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, told(lambda rank: None)) == ["went on"] * TWO


def unequally_often(rank: int) -> None:
    """As forwards of which each process has as many as its rows take, but all take part in every one."""
    made = []
    with failing_together(still=lambda: made.append("with another")):
        for _ in range(1 + 3 * rank):
            meet()
            made.append("own")
    assert made == (["own"] + ["with another"] * 3 if rank == 0 else ["own"] * 4)


def in_the_midst(rank: int) -> None:
    with failing_together(still=lambda: None):
        meet()
        if rank == 1:
            meet()
            broken(rank)


def test_a_process_that_is_ready_takes_part_in_what_others_still_do(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, told(unequally_often)) == ["went on"] * TWO
    found = in_two_processes(tmp_path, told(in_the_midst))
    assert all(one.startswith("PeerError: training process 1 failed") for one in found), found


def test_one_process_alone_raises_what_it_raises() -> None:
    with pytest.raises(ServerError), failing_together():
        broken(1)
