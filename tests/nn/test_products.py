"""Dense products: NumPy's, MKL's where it is installed, and those of operands rounded to bfloat16."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.nn.kernels import mkl
from mpidp.nn.kernels.products import BLOCK, Bfloat16, Products, pack, rounded
from mpidp.nn.layer import Arena

SHAPES = [(1, 1, 1), (3, 5, 7), (64, 33, 1), (1, 9, 17), (130, 71, 99), (0, 3, 4), (3, 0, 4), (3, 4, 0)]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}
BF16_STEP = 2.0**-8  # of rounding to 8 significant bits: at most this, relative


@pytest.fixture
def by_mkl(monkeypatch):
    """MKL for products of every size."""
    if mkl.find() is None:
        pytest.skip("the extra mkl is not installed")
    monkeypatch.setattr(mkl, "WORTH_IT", 0)
    return mkl.MklProducts(mkl.find(), 1)


def operands(m, k, n, turned, seed=0):
    """float64 a (m, k), b (k, n); `turned`: which of them lie transposed in memory."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(k, m) if turned[0] else (m, k)), rng.normal(size=(n, k) if turned[1] else (k, n))
    return a.T if turned[0] else a, b.T if turned[1] else b


def as_type(x, dtype):
    """`x` in this type, lying in memory as before."""
    return x.astype(dtype, order="K")


FORMS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mkl_agrees_with_numpy(by_mkl, shape, form, dtype):
    a, b = (as_type(x, dtype) for x in operands(*shape, FORMS[form]))
    out = np.full((shape[0], shape[2]), np.nan, dtype)
    by_mkl.matmul(a, b, out)
    assert np.allclose(out, a @ b, rtol=0, atol=TOLERANCE[dtype] * max(1, shape[1]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mkl_takes_parts_of_larger_matrices(by_mkl, dtype):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 30)).astype(dtype)[3:11, 4:19], rng.normal(size=(40, 15)).astype(dtype)[::2].T
    whole = np.zeros((30, 50), dtype)
    out = whole[7:15, 5:25]
    by_mkl.matmul(a, b, out)
    assert np.allclose(out, a @ b, rtol=0, atol=100 * TOLERANCE[dtype])
    out[...] = 0
    assert not whole.any()


def test_what_mkl_cannot_do_numpy_does(by_mkl):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(6, 8)), rng.normal(size=(8, 5))
    for x, y in (
        (a[:, ::2], b[::2]),  # neither rows nor columns are contiguous
        (a, np.broadcast_to(b[:, :1], b.shape)),
        (a[::-1], b),
        (a[0], b),
        (a, b[:, 0]),
        (np.stack([a, a]), b),
        (np.stack([a, a]), np.stack([b, b])),
        (a.astype(np.float32), b),
        (a.astype(np.int64), b.astype(np.int64)),
    ):
        out = np.empty_like(x @ y)
        by_mkl.matmul(x, y, out)
        assert np.allclose(out, x @ y, rtol=1e-6)
    out = np.empty((5, 6)).T  # a result in column order
    by_mkl.matmul(a, b, out)
    assert np.allclose(out, a @ b)


def test_mkl_leaves_small_products_to_numpy(monkeypatch):
    if mkl.find() is None:
        pytest.skip("the extra mkl is not installed")
    products, called = mkl.MklProducts(mkl.find(), 1), []
    monkeypatch.setattr(products, "_multiply", lambda *_: called.append("one"))
    small, large = np.ones((64, 64)), np.ones((256, 256))
    products.matmul(small, small, np.empty((64, 64)))
    assert called == []
    products.matmul(large, large, np.empty((256, 256)))
    products.matmul(large[None], large[None], np.empty((1, 256, 256)))
    assert called == ["one"]


def test_mkl_with_several_threads_agrees(by_mkl):
    a, b = operands(200, 300, 100, (False, False))
    out = np.empty((200, 100))
    mkl.MklProducts(mkl.find(), 2).matmul(a, b, out)
    assert np.allclose(out, a @ b)


WORDS = arrays.arrays(np.uint32, st.integers(0, 50), elements=st.integers(0, 2**32 - 1))


@given(WORDS)
def test_rounding_is_to_the_nearest_and_ties_to_even(words):
    x = words.view(np.float32)
    x = x[~np.isnan(x)]
    expected = x.astype(ml_dtypes.bfloat16)
    out, packed = np.empty_like(x), np.empty(x.size, np.uint16)
    rounded(x, out)
    pack(x, packed)
    assert np.array_equal(out.view(np.uint32), expected.astype(np.float32).view(np.uint32))
    assert np.array_equal(packed, expected.view(np.uint16))


def test_rounding_of_ties_of_nan_and_of_several_blocks():
    x = np.arange(2 * BLOCK + 5, dtype=np.float32)
    out = np.empty_like(x)
    rounded(x, out)
    assert np.array_equal(out, x.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert out[257] == 256 and out[259] == 260
    packed = np.empty(x.size, np.uint16)
    pack(x, packed)
    assert np.array_equal(packed.view(ml_dtypes.bfloat16).astype(np.float32), out)
    rounded(np.array([np.nan, -np.nan], np.float32), out[:2])
    assert np.isnan(out[:2]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bfloat16_products_are_the_emulated_ones(by_mkl, shape, form):
    results = []
    for packed in (True, False):
        products = Bfloat16(by_mkl, packed)
        arena = Arena(np, np.float32, products)
        taken = []
        for x in operands(*shape, FORMS[form]):
            lies = as_type(x, np.float32) if x.flags.c_contiguous else as_type(x, np.float32).T
            operand = products.take(lies, products.memory(arena, lies.shape))
            taken.append(operand if x.flags.c_contiguous else operand.T)
        out = np.full((shape[0], shape[2]), np.nan, np.float32)
        products.matmul(*taken, out)
        results.append(out)
    assert np.allclose(*results, rtol=0, atol=1e-5 * max(1, shape[1]))


def test_packed_bfloat16_refuses_what_it_cannot_multiply(by_mkl):
    a = np.ones((4, 4), np.uint16)
    with pytest.raises(ValueError, match="bfloat16 products"):
        by_mkl.matmul(a[:, ::2], a[::2], np.empty((4, 4), np.float32))


def test_bfloat16_leaves_float32_products_as_they_are():
    a, b = (x.astype(np.float32) for x in operands(5, 6, 7, (False, False)))
    out = np.empty((5, 7), np.float32)
    Bfloat16(Products(), packed=False).matmul(a, b, out)
    assert np.array_equal(out, a @ b)


GPT = {"layers": 2, "heads": 2, "width": 32, "context": 16}


def gradient(model_name, products, dtype=np.float32, **options):
    """(loss, gradient) of a small model of its initial values on random samples."""
    schema = Schema("tokens", (16,), 40) if model_name == "gpt" else Schema("values", (12,), 3)
    spec = MODELS[model_name]
    model = spec.build(spec.Options(**options), schema, dtype)
    params, grads = np.zeros(model.size, dtype), np.zeros(model.size, dtype)
    model.bind(params, grads, products)
    model.initialise(3)
    rng = np.random.default_rng(4)
    if model_name == "gpt":
        x, y = rng.integers(0, 40, (2, 5, 16)).astype(np.int32)
    else:
        x, y = rng.normal(size=(9, 12)).astype(dtype), rng.normal(size=(9, 3)).astype(dtype)
    return model.gradients(x, y, 0.1), grads


MODELS_HERE = [("gpt", GPT), ("mlp", {"hidden": "32,32"}), ("linear", {})]


@pytest.mark.parametrize(("name", "options"), MODELS_HERE)
def test_gradients_with_bfloat16_operands_are_near_those_of_float32(name, options):
    loss, expected = gradient(name, Products(), **options)
    rough_loss, rough = gradient(name, Bfloat16(Products(), packed=False), **options)
    assert rough_loss == pytest.approx(loss, rel=BF16_STEP)
    error = np.linalg.norm(rough - expected) / np.linalg.norm(expected)
    assert BF16_STEP / 100 < error < 2 * BF16_STEP  # rounded it was, and by no more than its step


@pytest.mark.parametrize(("name", "options"), MODELS_HERE)
def test_models_compute_the_same_with_mkl(by_mkl, name, options):
    for kind, tolerance in (
        (Products, 1e-6),
        (lambda inner=None: Bfloat16(inner or Products(), False), 1e-4),
    ):
        loss, expected = gradient(name, kind(), **options)
        other, found = gradient(name, kind(by_mkl) if kind is not Products else by_mkl, **options)
        assert other == pytest.approx(loss, rel=tolerance)
        assert np.linalg.norm(found - expected) <= 10 * tolerance * np.linalg.norm(expected)


def test_packed_and_emulated_bfloat16_train_alike(by_mkl):
    (loss, expected), (other, found) = (gradient("gpt", Bfloat16(by_mkl, p), **GPT) for p in (True, False))
    assert other == pytest.approx(loss, rel=1e-5)
    assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
