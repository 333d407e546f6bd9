"""The orders in which the gradients of a batch's parts are added."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.nn.accumulation import InOrder, Tree, on_grid
from tests.nn.test_model import small, text


def parts(count: int, n=50) -> list[np.ndarray]:
    """Of very different sizes, so that every order of additions has bits of its own."""
    rng = np.random.default_rng(count)
    return [(rng.normal(size=n) * 10.0 ** rng.uniform(-6, 6, n)).astype(np.float32) for _ in range(count)]


def added(adder, gradients: list[np.ndarray]) -> np.ndarray:
    """As the model does it: one vector, written over by one part after another."""
    adder.begin()
    grads = np.empty_like(gradients[0])
    for g in gradients[:-1]:
        grads[...] = g
        adder.keep(grads)
    grads[...] = gradients[-1]
    for vector in adder.held():
        grads += vector
    return grads


def tree(gradients: list[np.ndarray]) -> np.ndarray:
    while len(gradients) > 1:
        gradients = [a + b for a, b in zip(gradients[::2], gradients[1::2], strict=True)]
    return gradients[0]


def test_in_order():
    for count in (1, 2, 3, 8):
        total, gradients = None, parts(count)
        for g in gradients:
            total = g.copy() if total is None else total + g
        assert (added(InOrder(), gradients) == total).all()


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_the_tree_is_the_same_over_any_groups(count):
    """P ranks with count / P parts each, whose sums are added in the tree over ranks."""
    gradients, adder = parts(count), Tree()
    whole = tree(gradients)
    for _ in range(2):
        assert (added(adder, gradients) == whole).all()
    assert len(adder.levels) == count.bit_length() - 1
    each = 1
    while each <= count:
        groups = [added(Tree(), gradients[i : i + each]) for i in range(0, count, each)]
        assert (tree(groups) == whole).all()
        each *= 2
    if count > 2:
        assert (added(InOrder(), gradients) != whole).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40))
def test_a_tree_of_any_number_of_parts_adds_each_once(count):
    gradients = [np.full(3, 2.0**-i) for i in range(count)]
    assert (added(Tree(), gradients) == sum(gradients)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50), st.randoms())
def test_losses_on_the_grid_have_one_sum_in_every_order(losses, random):
    losses = [on_grid(loss) for loss in losses]
    shuffled = random.sample(losses, len(losses))
    half = len(losses) // 2
    assert sum(losses) == sum(shuffled) == sum(losses[:half]) + sum(losses[half:])
    assert np.isnan(on_grid(np.nan)) and on_grid(np.inf) == np.inf


@pytest.mark.parametrize("cuts", [(0, 2, 4), (1, 1, 5), (3, 6, 6)])
def test_a_model_adds_its_parts_by_the_tree(cuts):
    """Empty parts too, first, in the middle and last; and what is announced is what is final."""
    model, (x, y), slots = small(dropout=0.3, dtype=np.float32), text(6), np.arange(6)
    gradients, losses = [], []
    for start, stop in zip((0, *cuts), (*cuts, 6), strict=True):
        part = slice(start, stop)
        losses.append(model.gradients(x[part], y[part], 0.25, key=(1, 2), slots=slots[part]))
        gradients.append(model.grads.copy())
    seen = np.full(model.size, np.nan, np.float32)

    def ready(lo, hi):
        seen[lo:hi] = model.grads[lo:hi]

    for _ in range(2):
        loss = model.gradients(x, y, 0.25, ready, key=(1, 2), slots=slots, cuts=cuts, adder=Tree())
        assert loss == sum(on_grid(loss) for loss in losses)
        np.testing.assert_array_equal(model.grads, tree(gradients))
        np.testing.assert_array_equal(seen, model.grads)
