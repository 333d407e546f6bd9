"""CuPy's kernels with activations of 16 bits, against `plain` on the same numbers; and sums, packs, edges."""

import ml_dtypes
import numpy as np
import pytest

from mpidp.nn.kernels import kernels_for, plain
from mpidp.nn.layer import Arena

SIXTEEN = {"bfloat16": (ml_dtypes.bfloat16, 2.0**-8), "float16": (np.float16, 2.0**-11)}
narrow_types = pytest.mark.parametrize("narrow", SIXTEEN)
widths = pytest.mark.parametrize("columns", [1, 7, 264, 776])  # of one element at a time, and of packs


class Sixteen:
    """A 16-bit type: how arrays of it come to the device and back, as float32."""

    def __init__(self, cupy, name):
        self.cupy = cupy
        self.dtype, self.step = SIXTEEN[name]
        self.stored = np.dtype(np.uint16 if name == "bfloat16" else np.float16)

    def put(self, x):
        """On the device, and what it is there."""
        rounded = x.astype(self.dtype)
        return self.cupy.asarray(rounded.view(self.stored)), rounded.astype(np.float64)

    def empty(self, *shape):
        return self.cupy.full(shape, 77, self.stored)

    def get(self, x):
        return x.get().view(self.dtype).astype(np.float64)

    def same(self, x, expected, steps=1.0):
        """Within one rounding of each element, and float32's of the largest."""
        found = self.get(x)
        limit = steps * self.step * np.abs(expected) + 1e-5 * max(1, np.abs(expected).max())
        assert (np.abs(found - expected) <= limit).all()


@pytest.fixture
def kind(cupy, narrow):
    return Sixteen(cupy, narrow)


def normal(*shape, seed=0, spread=1.0):
    return (spread * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def close(x, expected, tolerance=1e-5):
    np.testing.assert_allclose(x.get(), expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


@narrow_types
@widths
@pytest.mark.parametrize("rows", [1, 19])
def test_layer_norm(cupy, kind, rows, columns):
    kernels, work = kernels_for(cupy), kernels_for(cupy).workspace(Arena(cupy, np.float32), columns)
    x, gain, bias = normal(rows, columns, spread=3), normal(columns, seed=1), normal(columns, seed=2)
    y, xhat, rstd = plain.layer_norm(x.astype(np.float64), gain, bias, 1e-5)
    device = [cupy.asarray(a) for a in (x, gain, bias)]
    out = kind.empty(rows, columns), kind.empty(rows, columns), cupy.empty(rows, np.float32)
    kernels.layer_norm(*device, 1e-5, *out, work)
    if columns > 1:
        kind.same(out[0], y)
        kind.same(out[1], xhat)
        np.testing.assert_allclose(out[2].get(), rstd, rtol=1e-5)
    dy, rounded = kind.put(normal(rows, columns, seed=3))
    dx, dgain, dbias = plain.layer_norm_backward(rounded, kind.get(out[1]), out[2].get(), gain)
    stream = normal(rows, columns, seed=4)
    found = cupy.asarray(stream), cupy.empty(columns, np.float32), cupy.empty(columns, np.float32)
    for add in (True, False):
        kernels.layer_norm_backward(dy, out[1], out[2], device[1], found[1], found[2], found[0], work, add)
        close(found[0], dx + add * stream, 1e-4)
        close(found[1], dgain)
        close(found[2], dbias)


@narrow_types
@widths
@pytest.mark.parametrize("with_bias", [True, False])
def test_gelu(cupy, kind, columns, with_bias):
    kernels, work = kernels_for(cupy), kernels_for(cupy).workspace(Arena(cupy, np.float32), 1)
    x, rounded = kind.put(normal(5, columns, spread=3))
    shift = normal(columns, seed=1) * with_bias
    bias = cupy.asarray(shift) if with_bias else None
    y, slope = plain.gelu(rounded + shift)
    kept = kind.empty(5, columns)
    assert kernels.gelu(x, bias, kept, True, work) is kept
    kind.same(kept, y)
    dy, of_dy = kind.put(normal(5, columns, seed=2))
    kernels.gelu_backward(dy, x, bias, kept, work)
    kind.same(dy, of_dy * slope)


@narrow_types
def test_gelu_far_out(cupy, kind):
    kernels, work = kernels_for(cupy), kernels_for(cupy).workspace(Arena(cupy, np.float32), 1)
    x, _ = kind.put(np.array([[-6e4, -50, 0, 50, 6e4]], np.float32))
    kept, (dy, _) = kind.empty(1, 5), kind.put(np.ones((1, 5), np.float32))
    kernels.gelu(x, None, kept, True, work)
    kernels.gelu_backward(dy, x, None, kept, work)
    assert (kind.get(kept)[0, :4] == [0, 0, 0, 50]).all() and kind.get(kept)[0, 4] > 59000
    assert (kind.get(dy) == [[0, 0, 0.5, 1, 1]]).all()


@narrow_types
@pytest.mark.parametrize("columns, wide", [(1, 64), (7, 7), (50, 64), (2100, 2112)])
def test_softmax_cross_entropy_of_rows_with_room_behind(cupy, kind, columns, wide):
    kernels = kernels_for(cupy)
    whole, rounded = kind.put(normal(4, wide, spread=4))
    z, y = rounded[:, :columns], np.arange(4, dtype=np.int32) % columns
    losses, gradient = plain.softmax_cross_entropy(z, y)
    found = cupy.empty(4, np.float32)
    kernels.softmax_cross_entropy(whole[:, :columns], cupy.asarray(y), found)
    close(found, losses)
    kernels.softmax_cross_entropy(whole[:, :columns], cupy.asarray(y), found, 512.0)
    close(found, losses)
    kind.same(cupy.ascontiguousarray(whole[:, :columns]), 512 * gradient)
    assert (kind.get(whole)[:, columns:] == rounded[:, columns:]).all()


@narrow_types
@pytest.mark.parametrize("rows, columns", [(1, 3), (9, 8), (700, 40), (33, 513), (5, 1024)])
def test_sums_over_rows(cupy, kind, rows, columns):
    kernels = kernels_for(cupy)
    x, rounded = kind.put(normal(rows, columns))
    wide, sums = normal(rows, columns, seed=1), cupy.empty(columns, np.float32)
    work = kernels.sums_workspace(Arena(cupy, np.float32), rows, columns)
    kernels.column_sums(x, sums, work)
    close(sums, rounded.sum(0))
    kernels.column_sums(cupy.asarray(wide), sums, work)
    close(sums, wide.astype(np.float64).sum(0))


@narrow_types
@widths
def test_what_is_added(cupy, kind, columns):
    kernels = kernels_for(cupy)
    x, bias = normal(6, columns, seed=1), normal(columns, seed=2)
    y, rounded = kind.put(normal(6, columns))
    total = cupy.asarray(x)
    kernels.add(total, y, cupy.asarray(bias))
    close(total, x + rounded + bias)
    kernels.add(total, y)
    close(total, x + 2 * rounded + bias)
    kernels.add_bias(y, cupy.asarray(bias))
    kind.same(y, rounded + bias)


@pytest.mark.parametrize("columns", [6, 8])
@pytest.mark.parametrize("places", [1, 300, 2000])
def test_embedding_gradient_of_few_and_of_many_places_of_a_token(cupy, columns, places):
    kernels = kernels_for(cupy)
    rng = np.random.default_rng(0)
    ids = np.where(rng.random(places) < 0.5, 3, rng.integers(0, 40, places)).astype(np.int32)
    dy, grad = normal(places, columns), cupy.ones((40, columns), np.float32)
    kernels.embedding_gradient(cupy.asarray(ids), cupy.asarray(dy), grad)
    close(grad, 1 + plain.embedding_gradient(ids, dy.astype(np.float64), 40))


@pytest.mark.parametrize("narrow", SIXTEEN)
def test_rounding_is_to_the_nearest_and_ties_to_even(cupy, kind):
    from mpidp.nn.kernels.cupy_launch import narrowed

    words = np.random.default_rng(0).integers(0, 2**32, 4099, dtype=np.uint32).view(np.float32)
    ties = np.arange(256, 600, dtype=np.float32) * np.float32(1 + 2.0**-12)
    x = np.concatenate(
        [words[~np.isnan(words)], ties, np.float32([0, -0.0, 65519.9, 65520, np.inf, 6e-8, 2.9e-8])]
    )
    for part in (x, x[1:], x[:5]):
        out = kind.empty(part.size)
        narrowed(cupy.asarray(part), out)
        with np.errstate(over="ignore"):
            assert np.array_equal(out.get(), part.astype(kind.dtype).view(kind.stored))
