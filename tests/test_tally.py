"""Figures added up on rank 0."""

import threading

from mpidp.comm import run_ranks
from mpidp.tally import Tally

ROUNDS = 50


def numbers(rank, i):
    return [0.1 * rank + i, 1.0 / (1 + rank + i)]


def test_sums_have_the_bits_and_the_order_of_waiting_for_all():
    def body(comm):
        tally, sums = Tally(comm), []
        for i in range(ROUNDS):
            tally.add(numbers(comm.rank, i))
            sums += tally.sums()
        sums += tally.sums(wait=True)
        return sums, [comm.sum(numbers(comm.rank, i)) for i in range(ROUNDS)]

    (sums, expected), *others = run_ranks(4, body)
    assert sums == expected
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
        early = list(tally.sums())
        if comm.rank != 2:
            done.wait(10)
        return early, list(tally.sums(wait=True))

    early, late = run_ranks(3, body)[0]
    assert early == [] and len(late) == ROUNDS


def test_one_rank_alone():
    def body(comm):
        tally = Tally(comm)
        tally.add([1.0, 2.0])
        return list(tally.sums())

    assert run_ranks(1, body) == [[[1.0, 2.0]]]
