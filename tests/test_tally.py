"""Figures brought together on rank 0."""

import threading

from mpidp.comm import run_ranks
from mpidp.tally import Tally

ROUNDS = 50


def numbers(rank, i):
    return [0.1 * rank + i, 1.0 / (1 + rank + i)]


def test_what_comes_is_what_comes_to_those_who_wait_for_all():
    def body(comm):
        tally, found = Tally(comm), []
        for i in range(ROUNDS):
            tally.add(numbers(comm.rank, i))
            found += tally.complete()
        found += tally.complete(wait=True)
        return found, [comm.allgather(numbers(comm.rank, i)) for i in range(ROUNDS)]

    (found, expected), *others = run_ranks(4, body)
    assert found == expected
    assert all(found == [] for found, _ in others)


def test_nobody_waits_for_a_slow_rank():
    """Rank 2 adds its first numbers when the others have added their last; rank 0 can tell what is complete."""
    done = threading.Barrier(3)

    def body(comm):
        tally = Tally(comm)
        if comm.rank == 2:
            done.wait(10)
        for i in range(ROUNDS):
            tally.add(numbers(comm.rank, i))
        early = list(tally.complete())
        if comm.rank != 2:
            done.wait(10)
        return early, list(tally.complete(wait=True))

    early, late = run_ranks(3, body)[0]
    assert early == [] and len(late) == ROUNDS


def test_one_rank_alone():
    def body(comm):
        tally = Tally(comm)
        tally.add([1.0, 2.0])
        return list(tally.complete())

    assert run_ranks(1, body) == [[[[1.0, 2.0]]]]
