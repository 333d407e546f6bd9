"""Recursive halving and doubling: one fixed tree over the ranks, few rounds, no byte too many."""

import math

import numpy as np
import pytest

from mpidp.collectives import halving_doubling
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import run_ranks

N = 61  # prime
SIZES = range(1, 34)
FLOAT = plain_bytes(np.float32)


def tree(vectors: list[np.ndarray]) -> np.ndarray:
    """((x_0 + x_1) + (x_2 + x_3)) + ..."""
    if len(vectors) == 1:
        return vectors[0]
    half = len(vectors) // 2
    return tree(vectors[:half]) + tree(vectors[half:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_sums_are_those_of_the_tree_over_the_ranks_in_order(ranks, dtype):
    """Bit by bit, by the all-reduce and by the reduce-scatter; another order gives other bits."""
    vectors = list(np.random.default_rng(ranks).normal(size=(ranks, N)).astype(dtype))
    expected = tree(vectors)

    def body(comm):
        scratch = np.empty(N, dtype)
        summed, halved = vectors[comm.rank].copy(), vectors[comm.rank].copy()
        halving_doubling.allreduce(comm, summed, scratch)
        halving_doubling.reduce_scatter(comm, halved, scratch)
        mine = halving_doubling.part(N, ranks, comm.rank)
        return (summed == expected).all(), (halved[mine] == expected[mine]).all()

    assert run_ranks(ranks, body) == [(True, True)] * ranks
    if ranks > 2:
        assert (sum(vectors) != expected).any()


@pytest.mark.parametrize("ranks", SIZES)
def test_every_rank_has_a_chunk_of_its_own(ranks):
    parts = [halving_doubling.part(N, ranks, rank) for rank in range(ranks)]
    assert sorted(i for part in parts for i in range(N)[part]) == list(range(N))
    assert all(abs((part.stop - part.start) - N / ranks) < 1 for part in parts)


@pytest.mark.parametrize("ranks", SIZES)
def test_messages_and_bytes_are_those_published(ranks):
    """2 lg P messages for P = 2^k, else one more a round at the most; 2 n (P - 1) / P bytes where P divides n."""
    rounds = 2 * math.ceil(math.log2(ranks))
    costs = [halving_doubling.cost(6 * ranks, ranks, rank, FLOAT) for rank in range(ranks)]
    for messages, sent in costs:
        assert sent == 4 * 2 * 6 * (ranks - 1)
        assert messages == rounds if ranks & (ranks - 1) == 0 else rounds <= messages <= 2 * rounds
    assert len(halving_doubling.rounds(ranks, 0)) * 2 == rounds
    total = sum(halving_doubling.cost(N, ranks, rank, int)[1] for rank in range(ranks))
    assert total == 2 * N * (ranks - 1)
