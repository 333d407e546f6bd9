"""Dense products of the device: cuBLAS's arguments, types and orders, on the stand-in's cuBLAS; models of each type."""

import ml_dtypes
import numpy as np
import pytest

from mpidp.arrays import number
from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.nn.kernels.products import Bfloat16, Float16, Products
from mpidp.nn.layer import Arena

SHAPES = [(1, 1, 1), (3, 5, 7), (64, 33, 1), (1, 9, 17), (0, 3, 4), (3, 0, 4), (3, 4, 0)]
FORMS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}
TYPES = {
    "float64": (np.float64, {}, np.float64, 1e-13),
    "float32": (np.float32, {}, np.float32, 1e-5),
    "tf32": (np.float32, {"tf32": True}, np.float32, 2.0**-10),
    "bfloat16": (np.float32, {"operands": "bfloat16"}, ml_dtypes.bfloat16, 1e-5),
    "float16": (np.float32, {"operands": "float16"}, np.float16, 1e-5),
}  # the model's type, how products are made, what operands are rounded to, what sums may miss


def products_of(cupy, name):
    from mpidp.nn.kernels.cublas import CublasProducts

    return CublasProducts(cupy, "GPU 0", **TYPES[name][1])


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_rounded_operands(cupy, shape, form, name):
    (m, k, n), turned = shape, FORMS[form]
    dtype, _, rounded, tolerance = TYPES[name]
    rng, products = np.random.default_rng(0), products_of(cupy, name)
    arena = Arena(cupy, dtype, products)
    taken, exact = [], []
    for (rows, columns), across in zip(((m, k), (k, n)), turned, strict=True):
        x = rng.normal(size=(columns, rows) if across else (rows, columns)).astype(dtype)
        operand = products.take(cupy.asarray(x), products.memory(arena, x.shape))
        taken.append(operand.T if across else operand)
        exact.append((x.T if across else x).astype(rounded).astype(np.float64))
    out = cupy.full((m, n), np.nan, dtype)
    products.matmul(*taken, out)
    np.testing.assert_allclose(out.get(), exact[0] @ exact[1], rtol=0, atol=tolerance * max(1, 2 * k))


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_results_of_sixteen_bits_and_parts_of_larger_matrices(cupy, name):
    products, rounded = products_of(cupy, name), TYPES[name][2]
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=shape).astype(rounded) for shape in ((20, 30), (40, 15)))
    x, y = (cupy.asarray(m.view(products.narrow)) for m in (a, b))
    whole = cupy.zeros((30, 64), products.narrow)
    products.matmul(x[3:11, 4:19], y[::2].T, whole[7:15, :20])
    expected = a[3:11, 4:19].astype(np.float32) @ b[::2].T.astype(np.float32)
    found = whole.get().view(rounded).astype(np.float32)
    assert np.allclose(found[7:15, :20], expected, rtol=2.0**-8, atol=1e-6)
    found[7:15, :20] = 0
    assert not found.any()


def test_what_does_not_fit_is_refused(cupy):
    products = products_of(cupy, "float32")
    a, b, out = (cupy.zeros((4, 4), np.float32) for _ in range(3))
    for x, y, z in (
        (a[:, ::2], b[::2], out),
        (a, b[:2], out),
        (a, b.astype(np.float64), out),
        (a, b, out[:, ::2]),
    ):
        with pytest.raises(ValueError, match="product of"):
            products.matmul(x, y, z)


def test_an_operand_that_is_narrow_already_is_taken_as_it_is(cupy):
    products = products_of(cupy, "bfloat16")
    x = cupy.zeros((3, 4), products.narrow)
    assert products.take(x, None) is x
    assert products.wide(50257) == 50304 and products_of(cupy, "tf32").wide(50257) == 50257


GPT = {"layers": 2, "heads": 2, "width": 32, "context": 16}


def trained(xp, products, dropout=0.0, steps=3, dtype=np.float32):
    """(losses, gradient) of a small GPT after some steps of plain descent, and the logits of its prediction."""
    options = MODELS["gpt"].Options(**GPT, dropout=dropout)
    model = MODELS["gpt"].build(options, Schema("tokens", (16,), 41), dtype)
    params, grads = xp.zeros(model.size, dtype), xp.zeros(model.size, dtype)
    model.bind(params, grads, products)
    model.initialise(3)
    x, y = np.random.default_rng(4).integers(0, 41, (2, 5, 16)).astype(np.int32)
    losses = []
    for t in range(steps):
        losses.append(number(model.gradients(x, y, 0.2, key=(0, t), cuts=(3,))))
        params -= 0.5 * grads
    z = model.predict(x)
    return np.array(losses) / 5, *((a.get() if xp is not np else a.copy()) for a in (grads, z))


HOST = {
    "float32": (Products, 1e-5),
    "tf32": (Products, 2.0**-9),
    "bfloat16": (lambda: Bfloat16(Products(), packed=False), 2.0**-6),
    "float16": (lambda: Float16(Products()), 2.0**-9),
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", HOST)
def test_a_gpt_trains_as_on_the_host(cupy, name, dropout):
    """Of the 16-bit types the device rounds what goes between products, too: a rounding more for each."""
    make, tolerance = HOST[name]
    losses, gradient, z = trained(np, make(), dropout)
    found = trained(cupy, products_of(cupy, name), dropout)
    np.testing.assert_allclose(found[0], losses, rtol=tolerance / 8)
    assert np.linalg.norm(found[1] - gradient) < tolerance * np.linalg.norm(gradient)
    assert found[2].dtype == np.float32 and np.linalg.norm(found[2] - z) < tolerance * np.linalg.norm(z)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_parameters_are_rounded_once_a_batch(cupy, name, monkeypatch):
    products, sizes = products_of(cupy, name), []
    narrowed = products.narrowed
    monkeypatch.setattr(products, "narrowed", lambda x, out: (sizes.append(x.size), narrowed(x, out)))
    _, gradient, _ = trained(cupy, products, steps=2)
    assert sizes.count(gradient.size) == 3  # two steps of two parts each, and a prediction
