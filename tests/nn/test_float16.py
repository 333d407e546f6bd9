"""Operands rounded to float16: as NumPy rounds them, overflow and underflow included."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpidp import arithmetic
from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.nn.kernels.products import BLOCK, Float16, Products, halved
from mpidp.nn.layer import Arena

STEP = 2.0**-11  # of rounding to 11 significant bits: at most this, relative
WORDS = arrays.arrays(np.uint32, st.integers(0, 50), elements=st.integers(0, 2**32 - 1))


def through_halves(x):
    out = np.empty_like(x)
    with np.errstate(all="ignore"):
        halved(x, out)
        assert np.array_equal(out, x.astype(np.float16).astype(np.float32), equal_nan=True)
    return out


@given(WORDS)
def test_rounding_is_numpy_s(words):
    through_halves(words.view(np.float32))


def test_every_half_every_middle_and_what_is_beside_it():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(halves[np.isfinite(halves)])
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    above, below = (np.nextafter(middles, np.float32(far)) for far in (np.inf, -np.inf))
    assert middles.size > BLOCK // 2
    through_halves(np.concatenate([halves, middles, above, below]))


def test_the_ends_of_the_range():
    x = [65504, 65519.99, 65520, -65520, 3e38, np.inf, 2.0**-24, 2.0**-25, 1.01 * 2.0**-25, np.nan]
    out = through_halves(np.array(x, np.float32))
    expected = [65504, 65504, np.inf, -np.inf, np.inf, np.inf, 2.0**-24, 0, 2.0**-24, np.nan]
    assert np.array_equal(out, np.array(expected, np.float32), equal_nan=True)


def test_products_of_what_is_beyond_the_range_are_infinite():
    products = Float16(Products())
    arena = Arena(np, np.float32, products)
    a, b = np.array([[1.0, 7e4], [1.0, 2.0]], np.float32), np.array([[1.0], [1.0]], np.float32)
    with np.errstate(all="ignore"):
        taken = [products.take(x, products.memory(arena, x.shape)) for x in (a, b)]
    out = np.empty((2, 1), np.float32)
    products.matmul(*taken, out)
    assert out.ravel().tolist() == [np.inf, 3.0]


def gradient(products, scale, hidden="16,16"):
    """The gradient of `scale` times the loss of a small model of its initial values on random samples."""
    model = MODELS["mlp"].build(MODELS["mlp"].Options(hidden=hidden), Schema("values", (12,), 3), np.float32)
    params, grads = np.zeros(model.size, np.float32), np.zeros(model.size, np.float32)
    model.bind(params, grads, products)
    model.initialise(3)
    rng = np.random.default_rng(4)
    model.gradients(*(rng.normal(size=(9, n)).astype(np.float32) for n in (12, 3)), scale)
    return grads


def test_gradients_are_near_those_of_float32():
    expected, found = gradient(Products(), 0.1), gradient(Float16(Products()), 0.1)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert STEP / 100 < error < 2 * STEP


def test_small_gradients_vanish_without_a_scale_and_with_one_they_do_not():
    small = 1e-9
    expected = gradient(Products(), small)
    weights = slice(0, 12 * 16)  # of the first layer; biases' gradients are no products
    assert (gradient(Float16(Products()), small)[weights] == 0).all() and (expected[weights] != 0).any()
    scaled = gradient(Float16(Products()), small * 2.0**24) / np.float32(2.0**24)
    assert np.linalg.norm(scaled - expected) < 2 * STEP * np.linalg.norm(expected)


def test_gradients_beyond_the_range_are_infinite():
    with np.errstate(all="ignore"):
        assert not np.isfinite(gradient(Float16(Products()), 1e6)).all()
    assert np.isfinite(gradient(Products(), 1e6)).all()


def test_float16_is_known_by_its_name():
    products = arithmetic.products("numpy", "float16")
    assert products.about == "float16 products by numpy, emulated in float32" and products.blas == "numpy"
    assert arithmetic.vectors_dtype("float16") == np.float32
    assert arithmetic.recorded({"dtype": "float16"}).about == products.about
