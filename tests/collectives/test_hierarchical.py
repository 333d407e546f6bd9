"""The hierarchical route over simulated hosts: sums for every arrangement of ranks, and traffic by its formulas."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.collectives import hierarchical, ring
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import run_ranks
from tests.routes import check_route, vector

ARRANGEMENTS = {
    "alone": [0],
    "one host": [0, 0, 0],
    "one rank a host": [0, 1, 2, 3],
    "block": [0, 0, 1, 1],
    "in turn": [0, 1, 0, 1],
    "mixed": [0, 1, 1, 0],
    "three hosts": [0, 0, 1, 1, 2, 2],
    "two hosts in turn": [0, 1, 0, 1, 0, 1],
    "2 + 1": [0, 0, 1],
    "1 + 2": [0, 1, 1],
    "3 + 1": [0, 0, 0, 1],
    "3 + 2": [0, 1, 0, 1, 0],
    "2 + 5 + 3": [0, 1, 1, 2, 1, 2, 0, 1, 1, 2],
}
LENGTHS = [0, 1, 2, 3, 7, 64, 1001]
FLOAT = plain_bytes(np.float32)
TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_sums_and_messages(name):
    def body(comm):
        for length in LENGTHS:
            for dtype in TYPES:
                check_route(comm, "hierarchical", length, dtype)

    run_ranks(len(ARRANGEMENTS[name]), body, hosts=ARRANGEMENTS[name])


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(hierarchical, "PIECE", 3)
    hierarchical.work.cache_clear()
    yield
    hierarchical.work.cache_clear()


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_sums_and_messages_in_pieces(name, short_pieces):
    def body(comm):
        for length in [*LENGTHS, 30, 99]:
            check_route(comm, "hierarchical", length, np.float32)

    run_ranks(len(ARRANGEMENTS[name]), body, hosts=ARRANGEMENTS[name])


def test_pieces_are_counted(short_pieces):
    """A chunk of 10 in 3 pieces: 2 (H - 1) m messages, and the bytes as before."""
    assert hierarchical.cost(40, [0, 0, 1, 1], 0, FLOAT) == (2 * 3, 2 * 10 * 4)
    assert hierarchical.cost(32, [0, 0, 1, 1], 0, FLOAT) == (2, 2 * 8 * 4)
    assert hierarchical.cost(4000, [0, 0, 1, 1], 0, FLOAT) == (2 * 16, 2 * 1000 * 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 40), st.integers(0, 2**31))
def test_the_same_bits_everywhere(hosts, length, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(hosts), length))

    def body(comm):
        buffer = hierarchical.allocate(comm, length, np.dtype(np.float64))
        buffer[...] = vectors[comm.rank]
        before = comm.traffic.copy()
        hierarchical.allreduce(comm, buffer, np.empty(length))
        sent = comm.traffic - before
        return buffer.copy(), sent.messages, sent.bytes, sent.shared_bytes

    results = run_ranks(len(hosts), body, hosts=hosts)
    assert len({result[0].tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0][0], vectors.sum(0), rtol=1e-12, atol=1e-14)
    order = list(dict.fromkeys(hosts))
    numbered = [order.index(host) for host in hosts]
    for rank, (_, messages, sent, shared) in enumerate(results):
        assert (messages, sent) == hierarchical.cost(length, numbered, rank, plain_bytes(np.float64))
        assert shared == hierarchical.shared_bytes(length, numbered, rank, 8)


@pytest.mark.parametrize(("hosts", "local"), [(2, 2), (2, 3), (3, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("in_turn", [False, True])
def test_costs_are_those_stated(hosts, local, in_turn):
    """2 (H - 1) messages of n / P; 2 n (L - 1) / L of shared memory: where P divides n."""
    ranks, n = hosts * local, 120
    arrangement = [rank % hosts if in_turn else rank // local for rank in range(ranks)]
    for rank in range(ranks):
        found = hierarchical.cost(n, arrangement, rank, FLOAT)
        assert found == (2 * (hosts - 1), 2 * 4 * n * (hosts - 1) // ranks)
        assert hierarchical.shared_bytes(n, arrangement, rank, 4) == 2 * 4 * n * (local - 1) // local


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.parametrize("length", [7, 1001])
def test_no_arrangement_sends_more_over_the_link_than_the_optimum(name, length):
    """Every host must send what it works for; all hosts together 2 n (H - 1)."""
    hosts = ARRANGEMENTS[name]
    total = sum(hierarchical.cost(length, hosts, rank, int)[1] for rank in range(len(hosts)))
    assert total == 2 * length * max(hosts)


def test_one_rank_a_host_sends_what_the_ring_sends():
    for length in LENGTHS[1:]:
        for rank in range(4):
            assert hierarchical.cost(length, range(4), rank, FLOAT) == ring.cost(length, 4, rank, FLOAT)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_part_of_a_shared_vector_and_one_in_private_memory(name):
    """A bucket is summed and its surroundings are left; what does not lie in shared memory takes the flat ring."""
    hosts = ARRANGEMENTS[name]
    expected = sum(vector(rank, 20, np.float64) for rank in range(len(hosts)))

    def body(comm):
        whole = hierarchical.allocate(comm, 50, np.dtype(np.float64))
        whole[...] = 1000
        whole[10:30] = vector(comm.rank, 20, np.float64)
        hierarchical.allreduce(comm, whole[10:30], np.empty(20))
        private = vector(comm.rank, 20, np.float64)
        hierarchical.allreduce(comm, private, np.empty(20))
        return whole.copy(), private

    for whole, private in run_ranks(len(hosts), body, hosts=hosts):
        assert (whole[10:30] == expected).all() and (private == expected).all()
        assert (whole[:10] == 1000).all() and (whole[30:] == 1000).all()


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("alone", "shared"),
        ("one host", "shared"),
        ("one rank a host", "ring"),
        ("2 + 1", None),
        ("block", None),
    ],
)
def test_what_it_is_without_two_levels(name, same):
    hosts = ARRANGEMENTS[name]
    assert run_ranks(len(hosts), hierarchical.alike, hosts=hosts) == [same] * len(hosts)
