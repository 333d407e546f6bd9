import numpy as np
import pytest

from mpidp.data.streams import Orders, generator, permutation


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 1000])
def test_permutation_has_every_index_once(n):
    assert sorted(permutation(n, 5, 1, 2)) == list(range(n))


def test_permutation_depends_on_seed_and_each_word_of_the_place():
    orders = [permutation(50, *key) for key in [(0,), (1,), (0, 1), (0, 0, 1), (0, 0, 0, 1)]]
    assert len({order.tobytes() for order in orders}) == len(orders)
    assert (permutation(50, 1, 2, 3) == permutation(50, 1, 2, 3)).all()


def test_permutation_is_what_it_was():
    """A run resumed under another NumPy, or on another machine, must see the same order."""
    assert permutation(10, 1234, 5, 6).tolist() == [1, 8, 0, 6, 4, 2, 9, 7, 5, 3]


def test_permutation_is_uniform():
    """Each of 6 orders of 3 comes up in about 1/6 of 6000 draws (5 standard deviations: ± 145)."""
    orders = [tuple(permutation(3, 0, i).tolist()) for i in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 1000) for count in counts) < 145


def test_large_and_negative_seeds_have_streams_of_their_own():
    draws = [generator(seed, 0).normal() for seed in (0, 1, -1, 2**64, 2**64 - 1, 2**70)]
    assert len(set(draws)) == len(draws)


def test_streams_do_not_correlate():
    draws = np.stack([generator(0, 1, i).normal(size=2000) for i in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("sizes", [[1], [2, 1], [5, 6, 6], [1000, 999], [4097]])
def test_orders_that_are_computed_are_orders(sizes):
    orders = Orders(np.array(sizes), max(sizes), 3, 7, np.arange(len(sizes)))
    columns = np.array([orders.at(place) for place in range(max(sizes))])
    for column, n in zip(columns.T, sizes, strict=True):
        assert sorted(column[:n]) == list(range(n))
    other = Orders(np.array(sizes), max(sizes), 3, 8, np.arange(len(sizes)))
    assert max(sizes) < 10 or (columns != [other.at(place) for place in range(max(sizes))]).mean() > 0.9


def test_one_order_at_many_places():
    order = Orders(np.array([3000]), 3000, 0, 5)
    found = order.at(np.arange(3000))
    assert sorted(found) == list(range(3000)) and found.dtype == np.int64
    assert abs(np.corrcoef(found, np.arange(3000))[0, 1]) < 0.06
    assert (order.at(np.array([7, 2999])) == found[[7, 2999]]).all()
    assert (order.places(found) == np.arange(3000)).all()
