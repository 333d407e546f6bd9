"""The same bodies as in the tests with threads, on real ranks: all sizes of communicators in one launch.

The world of P ranks is cut in two in every way: of 7, into 7, 6 + 1, 5 + 2 and 4 + 3 ranks. Both parts work at the
same time, and each runs what is for its size.
"""

import gc
import os
from collections.abc import Callable

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm.world import start
from mpidp.strategies import STRATEGIES
from tests import conformance
from tests.compression import test_strategies as encoded
from tests.compression.test_sums import KEEPING, able, loses_nothing
from tests.conformance import CONTRACTS
from tests.regrouping import goes_on_with_other_ranks
from tests.routes import (
    check_broadcast,
    check_hosts,
    check_route,
    check_shared_memory,
    check_verbs,
    check_waiting_for_any,
    check_window,
)  # fmt: skip
from tests.runs import CASES, LONG, Run, rank_counts, same_everywhere

pytestmark = pytest.mark.mpi

ARITHMETIC = (conformance.equals_one_process_in_float32, conformance.says_truly_that_it_is_not_exact)
"""Contracts in which messages play no part that they have not in others: ranks that are threads hold to these."""
OF_MESSAGES = [contract for contract in CONTRACTS if contract not in ARITHMETIC]


@pytest.fixture(scope="module")
def made():
    """What communicators a body makes: they are given back after it, since MPICH has room for 2046."""
    from mpidp.comm.mpi import MPICommunicator

    made, split = [], MPICommunicator._split

    def noted(self, color, key):
        made.append(split(self, color, key))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MPICommunicator, "_split", noted)
        yield made


@pytest.fixture(scope="module")
def on_each(made):
    """`on_each(body, *args)` runs `body(comm, *args)` on this rank's part of every cut, or of those of some sizes.

    The lower ranks make up the larger part. A failure says on how many ranks it was.
    """
    world = start()
    if world.size > len(os.sched_getaffinity(0)):
        world.spin = 0.0  # a rank that tests without sleeping keeps another from its core
    cuts = [world.size - smaller for smaller in range(world.size // 2 + 1)]
    parts = [world.Split(int(world.rank >= larger), world.rank) for larger in cuts]
    made.clear()

    def run(body: Callable, *args, sizes=range(world.size + 1), **settings) -> None:
        for comm in parts:
            if comm.size in sizes:
                try:
                    body(comm.Dup(), *args, **settings)
                except Exception as error:
                    error.add_note(f"on rank {comm.rank} of {comm.size}")
                    raise
                give_back(made)

    return run


def give_back(made: list) -> None:
    for comm in made:
        comm._unshare()
    while made:
        made.pop().comm.Free()


def test_verbs(on_each):
    on_each(check_verbs)


def test_waiting_for_any(on_each):
    on_each(check_waiting_for_any)


def test_window(on_each):
    on_each(check_window)


def test_shared_memory(on_each):
    on_each(check_shared_memory)


def test_hosts(on_each):
    """Here all are on one; tests/test_benchmark_link.py has real ranks on two."""
    on_each(lambda comm: check_hosts(comm, [0] * comm.size))


@pytest.mark.parametrize("route", COLLECTIVES)
def test_routes(on_each, route):
    """With few lengths: tests/collectives has many, and threads do not mind how many windows are made."""
    for length in (0, 5, 1001, 300_000):
        on_each(check_route, route, length, np.float32)
    on_each(check_route, route, 1001, np.float64)


def test_memory_of_a_receive_that_is_dropped_is_nobody_else_s(on_each):
    """What comes late goes where it was asked to go, which must not be given to others meanwhile."""
    on_each(drops_a_receive)


def drops_a_receive(comm, n=3000):
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    before = len(comm.unfinished.kept)
    dropped = comm.Irecv(np.zeros(n), left, 9)
    del dropped
    others = [np.full(n, 7.0) for _ in range(50)]
    comm.Barrier()
    comm.Wait(
        comm.Isend(np.ones(n), right, 9), comm.Irecv(np.empty(1), left, 10), comm.Isend(np.ones(1), right, 10)
    )
    assert len(comm.unfinished.kept) == before + 1 and all((other == 7).all() for other in others)
    comm.Dup()
    assert len(comm.unfinished.kept) == before


def test_a_strategy_may_be_dropped_in_the_middle_of_a_sum(on_each):
    """Streaming DiLoCo during its delay; its messages, which other ranks still send, do no harm."""
    on_each(drops_a_strategy, sizes=(2, 3, 4))


def drops_a_strategy(comm):
    how = {"period": 4, "fragments": 1, "delay": 3}
    run = Run(comm, "streaming", how, hidden=LONG)
    if comm.rank > 0:
        comm.Recv(
            np.empty(1), comm.rank - 1
        )  # so that rank 0 waits for the others' messages when it drops the sum
    run.steps(5)
    assert run.strategy.under_way is not None
    size = run.model.size
    del run
    gc.collect()
    others = [np.full(size // parts, 7.0) for parts in (1, 2, 3, 4, 5) for _ in range(10)]
    if comm.rank + 1 < comm.size:
        comm.Send(np.empty(1), comm.rank + 1)
    comm.Barrier()
    equal = Run(comm, "streaming", how, hidden=LONG).steps(9).merged()
    assert same_everywhere(comm, equal) and all((other == 7).all() for other in others)


def test_broadcast(on_each):
    on_each(lambda comm: [check_broadcast(comm, root) for root in range(comm.size)])


@pytest.mark.parametrize("name", KEEPING)
def test_encodings(on_each, name):
    route = "mpi" if "mpi" in able(name) else able(name)[0]
    on_each(loses_nothing, name, route, np.float32, 1e-6, sizes=(2, 3, 4))


@pytest.mark.parametrize("encoding", ["int8", "powersgd", "onebit-adam"])
def test_encodings_in_buckets_and_after_backward(on_each, encoding):
    on_each(encoded.keeps_its_contracts, "allreduce", 1, encoding, sizes=(4,))


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize(
    "contract", [one for one in CONTRACTS if one not in ARITHMETIC], ids=lambda contract: contract.__name__
)
def test_contract(on_each, contract, name, case):
    on_each(contract, name, case, sizes=rank_counts(name, case))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goes_on_with_other_ranks(on_each, name, case):
    on_each(goes_on_with_other_ranks, name, case, sizes={4} & set(rank_counts(name, case)))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_messages_that_mpi_does_not_buffer(on_each, name, case):
    on_each(conformance.works_with_longer_messages, name, case, sizes=rank_counts(name, case))


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if strategy.uses_collective])
def test_through_shared_memory(on_each, name):
    how = {"sizes": rank_counts(name, 0), "collective": "shared"}
    on_each(conformance.equals_one_process, name, 0, steps=30, **how)
    on_each(conformance.resumes_with_the_same_bits, name, 0, **how)
