"""Every route: right sums for every number of ranks, length and type, and the traffic that its formula states."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.collectives import COLLECTIVES, broadcast, ring
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import communicator, run_ranks
from mpidp.errors import UserError
from tests.routes import check_broadcast, check_route

RANKS = [1, 2, 3, 4, 5, 6, 7, 8]
LENGTHS = [0, 1, 2, 3, 7, 64, 1001]
FLOAT = plain_bytes(np.float32)
TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("route", COLLECTIVES)
def test_sums(route, ranks):
    def body(comm):
        for length in LENGTHS:
            for dtype in TYPES if route != "mpi" else TYPES[2:]:
                check_route(comm, route, length, dtype)

    run_ranks(ranks, body)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("route", ["ring", "halving-doubling", "tree", "pairwise"])
def test_random_vectors_have_the_same_bits_on_every_rank(route, ranks):
    vectors = np.random.default_rng(ranks).normal(size=(ranks, 101))

    def body(comm):
        buffer = vectors[comm.rank].copy()
        COLLECTIVES[route].allreduce(comm, buffer, np.empty(COLLECTIVES[route].scratch(101, ranks)))
        return buffer

    results = run_ranks(ranks, body)
    assert len({result.tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0], vectors.sum(0), rtol=1e-12, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 50), st.integers(0, 2**31))
def test_ring_on_random_vectors(ranks, length, seed):
    vectors = np.random.default_rng(seed).normal(size=(ranks, length))

    def body(comm):
        buffer = vectors[comm.rank].copy()
        ring.allreduce(comm, buffer, np.empty(length))
        return buffer

    results = run_ranks(ranks, body)
    assert len({result.tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0], vectors.sum(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("ranks", "length", "messages", "elements"), [(2, 10, 2, 10), (4, 1000, 6, 1500), (5, 10, 8, 16)]
)
def test_ring_cost_is_the_published_one(ranks, length, messages, elements):
    """2 (P - 1) messages, 2 n (P - 1) / P elements, where P divides n."""
    for rank in range(ranks):
        assert ring.cost(length, ranks, rank, FLOAT) == (messages, 4 * elements)


def test_ring_sends_no_more_than_the_optimum_in_sum():
    for ranks, length in [(3, 10), (7, 100), (5, 3)]:
        total = sum(ring.cost(length, ranks, rank, int)[1] for rank in range(ranks))
        assert total == 2 * length * (ranks - 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_reduce_scatter_then_all_gather(ranks):
    def body(comm):
        buffer = np.arange(11.0) * (comm.rank + 1)
        ring.reduce_scatter(comm, buffer, np.empty(11))
        mine = ring.chunk(11, comm.size, comm.rank)
        own = buffer[mine].copy()
        buffer[: mine.start] = buffer[mine.stop :] = np.nan
        ring.all_gather(comm, buffer)
        return own, mine, buffer

    whole = np.arange(11.0) * ranks * (ranks + 1) / 2
    for own, mine, gathered in run_ranks(ranks, body):
        assert (own == whole[mine]).all()
        assert (gathered == whole).all()


@pytest.mark.parametrize("ranks", RANKS)
def test_broadcast_from_every_root(ranks):
    for root in range(ranks):
        run_ranks(ranks, check_broadcast, root)


def test_broadcast_takes_lg_p_messages_of_the_root():
    def body(comm):
        broadcast(comm, np.zeros(3))
        return comm.traffic.messages

    assert run_ranks(8, body)[0] == 3
    assert sum(run_ranks(8, body)) == 7


def test_long_messages_are_cut(monkeypatch):
    """Each message of more than LONGEST_MESSAGE bytes travels as several, and they are counted."""
    monkeypatch.setattr(communicator, "LONGEST_MESSAGE", 16)

    def body(comm):
        buffer = np.full(10, comm.rank + 1.0)
        ring.allreduce(comm, buffer, np.empty(5))
        return buffer, comm.traffic.messages, comm.traffic.bytes

    for buffer, messages, sent in run_ranks(2, body):
        assert (buffer == 3).all()
        assert (messages, sent) == (6, 80)


def test_a_scratch_that_is_too_short_is_told():
    """Parts that land would overlap, and sums be wrong."""
    with pytest.raises(ValueError, match="a scratch of 3 elements, where 1 x 5 are needed"):
        run_ranks(2, lambda comm: ring.allreduce(comm, np.zeros(10), np.empty(3)))


def test_the_library_refuses_types_that_it_cannot_add():
    from mpidp.comm.mpi import addable

    with pytest.raises(UserError, match="bfloat16; use --collective ring"):
        addable(np.zeros(3, ml_dtypes.bfloat16))
    assert "cannot add bfloat16" in COLLECTIVES["mpi"].unable(None, np.dtype(ml_dtypes.bfloat16))
