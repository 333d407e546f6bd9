"""What a strategy relies on in a model: the flat layout, `ready`, micro-batches, empty batches, plans."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.models.gpt import Options, build
from mpidp.nn.activations import GELU
from mpidp.nn.cross_entropy import SoftmaxCrossEntropy
from mpidp.nn.layer import Arena
from mpidp.nn.linear import Linear
from mpidp.nn.model import PLANS_KEPT, Model
from tests.nn.gradcheck import bound

TEXT = SimpleNamespace(kind="tokens", inputs=(10,), outputs=20)


def small(dropout=0.0, dtype=np.float64, seed=0):
    model = bound(build(Options(layers=2, heads=2, width=8, context=12, dropout=dropout), TEXT, dtype), seed)
    model.params *= 5  # away from the start, where all logits are about equal
    return model


def text(samples, tokens=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 20, (2, samples, tokens)).astype(np.int32)


def mlp():
    return bound(Model([Linear("a", 6, 9), GELU(), Linear("b", 9, 3)], SoftmaxCrossEntropy(), np.float64))


def test_layout_is_gapless_in_forward_order_and_values_are_views():
    model = small()
    assert model.parameters[0].lo == 0 and model.parameters[-1].hi == model.size
    for a, b in zip(model.parameters, model.parameters[1:], strict=False):
        assert a.hi == b.lo
    for p in model.parameters:
        assert np.shares_memory(p.value, model.params) and np.shares_memory(p.grad, model.grads)
        assert p.hi - p.lo == p.size == p.value.size
    values, grads = [p.value for p in model.parameters], [p.grad for p in model.parameters]
    model.gradients(*text(3), 1 / 3)
    assert all(p.value is v and p.grad is g for p, v, g in zip(model.parameters, values, grads, strict=True))


@pytest.mark.parametrize("wrong", [np.zeros(5), np.zeros((2, 5)), np.zeros(10)[::2]])
def test_vectors_that_do_not_fit_are_refused(wrong):
    model = mlp()
    with pytest.raises(ValueError, match="need a contiguous vector"):
        model.bind(np.zeros(model.size), wrong)


def test_float32_vectors_are_refused_by_a_float64_model():
    model = mlp()
    with pytest.raises(ValueError, match="float64"):
        model.bind(np.zeros(model.size, np.float32), np.zeros(model.size, np.float32))


def test_initial_values_depend_on_seed_and_name_alone():
    def fresh(layers):
        return {p.name: p.value.copy() for p in bound(Model(layers, SoftmaxCrossEntropy()), 7).parameters}

    one = fresh([Linear("a", 4, 5), Linear("b", 5, 3)])
    other = fresh([Linear("c", 2, 4), Linear("a", 4, 5)])
    np.testing.assert_array_equal(one["a.weight"], other["a.weight"])
    assert np.abs(one["a.weight"].reshape(-1)[:8] - other["c.weight"].reshape(-1)).min() > 0
    assert not np.array_equal(small(seed=1).params, small(seed=2).params)


def test_initial_values_are_the_same_in_both_precisions():
    one, other = small(dtype=np.float32), small()
    for model in (one, other):
        model.initialise(3)
    np.testing.assert_array_equal(one.params, other.params.astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(
    samples=st.integers(0, 5),
    micro=st.one_of(st.none(), st.integers(1, 6)),
    dropout=st.sampled_from([0, 0.5]),
)
def test_ready_goes_from_tail_to_head_once_and_says_what_is_final(samples, micro, dropout):
    model = small(dropout)
    seen, slices = np.full(model.size, np.nan), []

    def ready(lo, hi):
        slices.append((lo, hi))
        seen[lo:hi] = model.grads[lo:hi]

    model.gradients(*text(samples), 0.5, ready, cuts=range(micro or samples + 1, samples, micro or 1))
    assert slices[0][1] == model.size and slices[-1][0] == 0
    assert all(lo == hi for (lo, _), (_, hi) in zip(slices, slices[1:], strict=False))
    assert all(lo < hi for lo, hi in slices)
    np.testing.assert_array_equal(seen, model.grads)
    assert len(slices) > 1 or samples == 0


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_micro_batches_give_the_whole_batchs_gradient(micro, dropout):
    model, (x, y) = small(dropout), text(5)
    options = {"key": (3, 4), "slots": [9, 2, 7, 30, 1]}
    loss = model.gradients(x, y, 1 / 5, **options)
    whole = model.grads.copy()
    for _ in range(2):
        assert model.gradients(x, y, 1 / 5, cuts=range(micro, 5, micro), **options) == pytest.approx(
            loss, rel=1e-12
        )
        np.testing.assert_allclose(model.grads, whole, rtol=0, atol=1e-14)


def test_no_second_vector_without_micro_batches():
    model = small()
    model.gradients(*text(4), 1.0)
    assert model._adder.vector is None
    model.gradients(*text(4), 1.0, cuts=[3])
    assert model._adder.vector.shape == (model.size,)


def test_shards_add_up_to_the_batch():
    """Σ over ranks of gradients of their samples, each scaled by 1/global count, is the global mean's gradient."""
    model, (x, y) = small(dropout=0.4), text(7)
    slots = np.arange(7)
    model.gradients(x, y, 1 / 7, key=(1, 1), slots=slots)
    whole, total = model.grads.copy(), np.zeros(model.size)
    for part in ([5], [], [0, 6, 3], [1, 2, 4]):
        part = np.array(part, int)
        model.gradients(x[part], y[part], 1 / 7, key=(1, 1), slots=slots[part])
        total += model.grads
    np.testing.assert_allclose(total, whole, rtol=0, atol=1e-14)


def test_an_empty_batch():
    model, (x, y), slices = small(), text(0), []
    model.grads[...] = 1
    assert model.gradients(x, y, 1.0, lambda lo, hi: slices.append((lo, hi))) == 0.0
    assert not model.grads.any() and slices == [s for s in reversed(model.slices) if s[0] < s[1]]
    assert model.evaluate(x, y) == (0.0, 0.0)


def test_evaluation_does_not_depend_on_how_the_data_is_parted_nor_touch_gradients():
    model, (x, y) = small(dropout=0.5), text(9)
    model.grads[...] = 3
    loss, correct = model.evaluate(x, y)
    for cuts in ([1, 2], [4], [0, 3, 8]):
        parts = [model.evaluate(a, b) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
        assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-13)
        assert sum(p[1] for p in parts) == pytest.approx(correct, rel=1e-13)
    assert (model.grads == 3).all()


def test_training_and_evaluation_take_turns_without_new_plans_or_memory(monkeypatch):
    model, (x, y), (vx, vy) = small(), text(4), text(6, seed=1)
    expected = model.gradients(x, y, 1.0), model.grads.copy(), model.evaluate(vx, vy)
    plans, memory = [], model._arena.nbytes
    monkeypatch.setattr(Arena, "reset", lambda self: plans.append(1))
    for _ in range(3):
        assert model.gradients(x, y, 1.0) == expected[0]
        np.testing.assert_array_equal(model.grads, expected[1])
        assert model.evaluate(vx, vy) == expected[2]
    assert not plans and model._arena.nbytes == memory


def test_many_shapes_reuse_the_same_memory():
    model, reference = mlp(), mlp()
    rng = np.random.default_rng(0)
    for count in [*range(1, PLANS_KEPT + 4), 3, 1, 2000, 5]:
        x, y = rng.normal(size=(count, 6)), rng.integers(0, 3, count).astype(np.int32)
        reference.bind(reference.params, reference.grads)  # forgets all plans
        assert model.gradients(x, y, 1.0) == reference.gradients(x, y, 1.0)
        np.testing.assert_array_equal(model.grads, reference.grads)
    assert len(model._plans) == PLANS_KEPT and len(model._arena.blocks) == 1


def test_a_refused_shape_leaves_the_model_usable():
    model, (x, y) = small(), text(2)
    loss = model.gradients(x, y, 1.0)
    with pytest.raises(ValueError, match="context is 12"):
        model.gradients(*text(2, tokens=13), 1.0)
    assert model.gradients(x, y, 1.0) == loss


def test_moving_to_other_vectors():
    model, (x, y) = small(), text(3)
    loss = model.gradients(x, y, 1.0)
    params, grads = model.params.copy(), np.empty_like(model.grads)
    model.params[...] = 0
    before = model.grads.copy()
    model.bind(params, grads)
    assert model.gradients(x, y, 1.0) == loss
    np.testing.assert_array_equal(grads, before)


def test_working_memory_is_what_a_plan_takes_and_changes_nothing():
    model, (x, y) = small(dropout=0.3), text(3)
    asked = model.working_memory(x.shape)
    assert model._arena.nbytes == 0
    loss = model.gradients(x, y, 1.0)
    grads = model.grads.copy()
    assert asked == sum(model._arena.used)
    assert model.working_memory((600, 10)) > 10 * asked
    assert model.gradients(x, y, 1.0) == loss
    np.testing.assert_array_equal(model.grads, grads)
