"""The two trees: every rank works in one of them at most, few levels, and no more bytes than the ring in sum."""

import math

import numpy as np
import pytest

from mpidp.collectives import tree
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import run_ranks
from tests.routes import check_route

SIZES = range(1, 70)


def depth(ranks: int, which: int, rank: int) -> int:
    parent = tree.places(ranks, rank)[which].parent
    return 0 if parent is None else 1 + depth(ranks, which, parent)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("ranks", SIZES)
def test_each_is_a_tree_over_all_ranks(ranks, which):
    places = [tree.places(ranks, rank)[which] for rank in range(ranks)]
    assert [place.parent for place in places].count(None) == 1
    for rank, place in enumerate(places):
        assert all(places[child].parent == rank for child in place.children)
        assert len(place.children) <= 2
    assert sum(len(place.children) for place in places) == ranks - 1
    assert max(depth(ranks, which, rank) for rank in range(ranks)) <= math.ceil(math.log2(ranks))


@pytest.mark.parametrize("ranks", SIZES)
def test_a_rank_that_works_in_one_tree_is_a_leaf_of_the_other(ranks):
    for rank in range(ranks):
        first, second = tree.places(ranks, rank)
        assert not (first.children and second.children)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("length", [0, 1, 1000, 1001])
def test_bytes_are_those_stated(ranks, length):
    costs = [tree.cost(length, ranks, rank, int) for rank in range(ranks)]
    assert sum(sent for _, sent in costs) == 2 * length * (ranks - 1)
    assert max(sent for _, sent in costs) <= 2 * (length + 1)
    segments = len(tree.bounds(length, ranks)) - 1
    assert max(messages for messages, _ in costs) <= 2 * segments


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(tree, "SEGMENT", 10)


def test_segments(short_segments):
    """Of about SEGMENT elements, as many for either tree, and not too many."""
    assert tree.bounds(5, 2) == [0, 2, 5]
    assert tree.bounds(60, 2) == [0, 10, 20, 30, 40, 50, 60]
    assert len(tree.bounds(10**6, 2)) == 2 * tree.MOST + 1


@pytest.mark.parametrize("ranks", range(1, 9))
def test_sums_and_messages_in_segments(ranks, short_segments):
    def body(comm):
        for length in (0, 3, 20, 39, 101, 1001):
            check_route(comm, "tree", length, np.float32)

    run_ranks(ranks, body)


def test_two_ranks_send_each_half_once_each_way():
    assert [tree.cost(100, 2, rank, plain_bytes(np.float32)) for rank in (0, 1)] == [(2, 400)] * 2
