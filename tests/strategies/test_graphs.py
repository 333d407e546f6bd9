"""The graphs of gossip: how they weigh, how fast they mix, and for how many ranks they are made."""

import math
import re

import numpy as np
import pytest

from mpidp.errors import UserError
from mpidp.strategies.graphs import GRAPHS, grid, levels, spectral_gap, weights

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16]


def fits(name: str, size: int) -> bool:
    try:
        GRAPHS[name].check(size)
    except UserError:
        return False
    return True


GRID = [(name, size) for name in GRAPHS for size in SIZES if fits(name, size)]


@pytest.mark.parametrize(("name", "size"), GRID)
def test_columns_add_up_to_one_and_on_balanced_graphs_rows_too(name, size):
    graph = GRAPHS[name]
    for t in range(1, 6):
        w = weights(graph, size, t, seed=3)
        assert (w >= 0).all() and (np.diag(w) > 0).all()
        np.testing.assert_allclose(w.sum(axis=0), 1, rtol=1e-15)
        if graph.balanced:
            np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-15)
    if not graph.balanced and size > 3:
        assert abs(w.sum(axis=1) - 1).max() > 0.4


@pytest.mark.parametrize("name", ["ring", "torus"])
def test_undirected_graphs_are_symmetric(name):
    w = weights(GRAPHS[name], 12)
    assert (w == w.T).all()


def direct(w: np.ndarray) -> float:
    """What a round may leave of the distance from the mean: the norm of W without its part that is the mean."""
    return 1 - np.linalg.norm(w - 1 / len(w), 2)


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 16])
def test_spectral_gaps_are_the_published_ones(size):
    gap = spectral_gap(GRAPHS["ring"], size)
    assert gap == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / size)), rel=1e-12)
    gap = spectral_gap(GRAPHS["exponential"], size)
    if size % 2 == 0:
        assert gap == pytest.approx(2 / (1 + levels(size)), rel=1e-12)
    assert gap == pytest.approx(direct(weights(GRAPHS["exponential"], size)), rel=1e-12)


def wave(i: int, n: int) -> float:
    return 2 * math.cos(2 * math.pi * i / n)


@pytest.mark.parametrize("size", [9, 12, 16, 25])
def test_spectral_gap_of_a_torus(size):
    rows, columns = grid(size)
    rho = max(
        abs(1 + wave(a, rows) + wave(b, columns)) / 5 for a in range(rows) for b in range(columns) if a + b
    )
    assert spectral_gap(GRAPHS["torus"], size) == pytest.approx(1 - rho, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 32])
def test_one_peer_averages_exactly_in_lg_p_rounds_and_not_sooner(size):
    product = np.eye(size)
    for t in range(1, levels(size) + 1):
        assert abs(product - 1 / size).max() > 0.01
        product = weights(GRAPHS["one-peer"], size, t) @ product
    assert (product == 1 / size).all()
    assert spectral_gap(GRAPHS["one-peer"], size) == pytest.approx(1)


def test_random_graphs_follow_the_seed_and_have_no_gap():
    arcs = [GRAPHS["random"].arcs(9, t, seed) for t, seed in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert (arcs[0] == arcs[1]).all()
    assert (arcs[0] != arcs[2]).any() and (arcs[0] != arcs[3]).any()
    assert all((one != np.arange(9)).all() for one in arcs)
    assert spectral_gap(GRAPHS["random"], 9) is None


@pytest.mark.parametrize(
    ("name", "size", "fitting"),
    [("torus", 1, [4]), ("torus", 3, [4]), ("torus", 7, [6, 8]), ("torus", 11, [10, 12]),
     ("one-peer", 3, [2, 4]), ("one-peer", 12, [8, 16])],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_what_fits_is_named(name, size, fitting):
    with pytest.raises(UserError) as error:
        GRAPHS[name].check(size)
    named = re.search(r"mpirun -n (\d+)(?: or (\d+))?", str(error.value)).groups()
    assert [int(n) for n in named if n] == fitting
    assert all(fits(name, n) for n in fitting)
