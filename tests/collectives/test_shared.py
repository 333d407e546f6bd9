"""Sums in shared memory: short vectors in one go, long ones chunk by chunk."""

import time

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES, shared
from mpidp.comm import run_ranks
from tests.routes import check_route

ROUTE = COLLECTIVES["shared"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_long_vectors(ranks, monkeypatch):
    monkeypatch.setattr(shared, "SHORT", 0)
    for length in (0, 1, 7, 1001):
        run_ranks(ranks, check_route, "shared", length, np.float32)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_short_vectors_are_added_in_rank_order_call_after_call(ranks):
    """Also where some ranks are late, and with nothing but the sums' own fences between the calls."""
    numbers = np.random.default_rng(0).normal(size=(7, ranks, 100)).astype(np.float32)

    def body(comm):
        buffer = ROUTE.allocate(comm, 100, np.dtype(np.float32))
        sums = []
        for turn, vectors in enumerate(numbers):
            if (turn + comm.rank) % 3 == 0:
                time.sleep(2e-3)
            buffer[...] = vectors[comm.rank]
            ROUTE.allreduce(comm, buffer, np.empty(100, np.float32))
            sums.append(buffer.copy())
        return sums, comm.traffic

    for sums, traffic in run_ranks(ranks, body):
        for vectors, found in zip(numbers, sums, strict=True):
            total = vectors[0].copy()
            for vector in vectors[1:]:
                total += vector
            assert (found == total).all()
        assert (traffic.messages, traffic.shared_bytes) == (0, 7 * 400 * (ranks - 1))


def test_where_short_ends():
    def body(comm):
        lengths = shared.SHORT // comm.size + np.arange(2)
        return [
            isinstance(comm.shared_parts(ROUTE.allocate(comm, n, np.dtype(np.float32))), shared.Short)
            for n in lengths.tolist()
        ]

    assert run_ranks(3, body) == [[True, False]] * 3
