"""Every tuned NumPy kernel against its formula in `plain`, over block edges, in both precisions, and at extremes."""

import numpy as np
import pytest

from mpidp.nn.kernels import numpy_kernels as tuned
from mpidp.nn.kernels import plain
from mpidp.nn.layer import Arena

TOLERANCE = {np.float32: 3e-6, np.float64: 1e-13}
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def same(actual, expected, dtype, factor=1.0):
    limit = factor * TOLERANCE[dtype] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@both
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1000, 130), (3, 70000)])
def test_layer_norm(dtype, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, shape)
    gain, bias, dy = rng.normal(size=shape[1]), rng.normal(size=shape[1]), rng.normal(size=shape)
    y, xhat, rstd = plain.layer_norm(x, gain, bias, 1e-5)
    dx, dgain, dbias = plain.layer_norm_backward(dy, xhat, rstd, gain)
    work = tuned.workspace(Arena(np, dtype), shape[1])
    cast = [a.astype(dtype) for a in (x, gain, bias, dy)]
    out = [np.full(a.shape, np.nan, dtype) for a in (y, xhat, rstd, dx, dgain, dbias)]
    tuned.layer_norm(cast[0], cast[1], cast[2], 1e-5, *out[:3], work)
    tuned.layer_norm_backward(cast[3], out[1], out[2], cast[1], out[4], out[5], out[3], work)
    stream = np.ones_like(out[3])
    tuned.layer_norm_backward(cast[3], out[1], out[2], cast[1], out[4], out[5], stream, work, True)
    np.testing.assert_array_equal(stream, 1 + out[3])
    for actual, expected in zip(out, (y, xhat, rstd, dx, dgain, dbias), strict=True):
        same(actual, expected, dtype, factor=30 if shape[1] == 1 else 3)


@both
def test_layer_norm_of_a_large_mean(dtype):
    """The variance is taken from centred values: mean² - (mean of squares) would lose them all here."""
    x = np.random.default_rng(0).normal(1000, 1, (4, 256)).astype(dtype)
    y, xhat, rstd = np.empty_like(x), np.empty_like(x), np.empty(4, dtype)
    one, zero = np.ones(256, dtype), np.zeros(256, dtype)
    tuned.layer_norm(x, one, zero, 1e-5, y, xhat, rstd, tuned.workspace(Arena(np, dtype), 256))
    same(y, plain.layer_norm(x.astype(np.float64), one, zero, 1e-5)[0], dtype, factor=100)


@both
@pytest.mark.parametrize("count", [1, 1000, 150_000])
def test_gelu(dtype, count):
    x = np.random.default_rng(0).normal(0, 3, count)
    y, slope = plain.gelu(x)
    work = tuned.workspace(Arena(np, dtype), 1)
    actual, other = np.empty(count, dtype), np.full(count, 7, dtype)
    out = tuned.gelu(x.astype(dtype), None, actual, True, work)
    same(out, y, dtype)
    same(actual, slope, dtype)
    dy = x.astype(dtype)
    tuned.gelu_backward(dy, out, None, actual, work)
    same(dy, x * slope, dtype, 3)
    np.testing.assert_array_equal(tuned.gelu(x.astype(dtype), None, other, False, work), out)
    assert (other == 7).all()  # without the slope


@both
def test_gelu_adds_the_bias_of_the_layer_before(dtype):
    x, bias = np.random.default_rng(0).normal(0, 3, (6, 5)), np.arange(5.0)
    out = tuned.gelu(
        x.astype(dtype),
        bias.astype(dtype),
        np.empty((6, 5), dtype),
        True,
        tuned.workspace(Arena(np, dtype), 1),
    )
    same(out, plain.gelu(x + bias)[0], dtype)


@both
@pytest.mark.parametrize("bias", [None, [1.0, 2.0, 3.0]])
def test_sums_over_rows_and_what_is_added_to_them(dtype, bias):
    x, y = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(dtype)
    total, sums = x + y + (0 if bias is None else bias), np.empty(3, dtype)
    tuned.add(x, y, bias)
    same(x, total, dtype)
    tuned.column_sums(x, sums, tuned.sums_workspace(Arena(np, dtype), 7, 3))
    same(sums, total.sum(0), dtype, 3)


@both
def test_gelu_far_out(dtype):
    x = np.array([-1e4, -50, 0, 50, 1e4], dtype)
    slope = np.empty_like(x)
    y = tuned.gelu(x, None, slope, True, tuned.workspace(Arena(np, dtype), 1))
    np.testing.assert_array_equal(y, [0, 0, 0, 50, 1e4])
    np.testing.assert_array_equal(slope, [0, 0, 0.5, 1, 1])


@both
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (600, 256), (3, 70000)])
def test_softmax_cross_entropy(dtype, shape):
    rng = np.random.default_rng(0)
    z, y = 4 * rng.normal(size=shape), rng.integers(0, shape[1], shape[0]).astype(np.int32)
    losses, gradient = plain.softmax_cross_entropy(z, y)
    cast, actual = z.astype(dtype), np.empty(shape[0], dtype)
    tuned.softmax_cross_entropy(cast, y, actual, 0.25)
    same(actual, losses, dtype)
    same(cast, 0.25 * gradient, dtype)
    tuned.softmax_cross_entropy(z.astype(dtype), y, actual)
    same(actual, losses, dtype)


@both
def test_softmax_cross_entropy_of_extreme_logits(dtype):
    z = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [1e30, 1e30, 0], [0, -200, -300]], dtype)
    y = np.array([1, 0, 0, 2], np.int32)
    losses = np.empty(4, dtype)
    tuned.softmax_cross_entropy(z, y, losses, 1.0)
    np.testing.assert_allclose(losses, [1e4, np.log(3), np.log(2), 300], rtol=1e-6)
    np.testing.assert_allclose(z, [[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [-0.5, 0.5, 0], [1, 0, -1]], atol=1e-6)


@both
@pytest.mark.parametrize("places", [1, 500])
def test_embedding_and_its_gradient(dtype, places):
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 40, places).astype(np.int32), rng.normal(size=(places, 6))
    table, positions = rng.normal(size=(40, 6)).astype(dtype), rng.normal(size=(places, 6)).astype(dtype)
    out = np.empty((1, places, 6), dtype)
    tuned.embedding(ids, table, positions, out)
    np.testing.assert_array_equal(out[0], table[ids] + positions)
    grad = np.ones((40, 6), dtype)
    tuned.embedding_gradient(ids, dy.astype(dtype), grad)
    same(grad, 1 + plain.embedding_gradient(ids, dy, 40), dtype)


def attend(q, k, v, do):
    """The tuned kernel's (O, dq, dk, dv) for arrays (B, H, T, D)."""
    batch, heads, tokens, depth = q.shape
    arena = Arena(np, q.dtype)
    core = tuned.CausalAttention(arena, batch, tokens, heads, depth)

    def joined(*heads_first):
        parts = [a.transpose(0, 2, 1, 3).reshape(batch, tokens, -1) for a in heads_first]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1))

    def parted(a):
        return a.reshape(batch, tokens, -1, heads, depth).transpose(2, 0, 3, 1, 4)

    qkv, dqkv, out = joined(q, k, v), np.full_like(joined(q, k, v), np.nan), np.empty_like(joined(q))
    core.forward(qkv, out)
    core.backward(qkv, out, joined(do), dqkv)
    return [parted(out)[0], *parted(dqkv)]


@both
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 5, 4), (3, 2, 64, 8), (2, 2, 200, 16), (9, 4, 128, 32)]
)
def test_attention(dtype, shape):
    rng = np.random.default_rng(0)
    q, k, v, do = rng.normal(size=(4, *shape))
    expected = [plain.attention(q, k, v), *plain.attention_backward(q, k, v, do)]
    actual = attend(*(a.astype(dtype) for a in (q, k, v, do)))
    for a, b in zip(actual, expected, strict=True):
        same(a, b, dtype, factor=3)


@both
@pytest.mark.parametrize("largest", [30.0, 200.0, 1e4])
def test_attention_of_large_scores(dtype, largest):
    """Scores where 2^S overflows, or underflows for a whole row: the block is redone with the maximum subtracted."""
    rng = np.random.default_rng(0)
    q, k, v, do = rng.normal(size=(4, 2, 2, 100, 8)).astype(dtype)
    q *= dtype(largest / np.abs(q @ k.swapaxes(2, 3) / np.sqrt(8)).max())
    wide = [a.astype(np.float64) for a in (q, k, v, do)]
    expected = [plain.attention(*wide[:3]), *plain.attention_backward(*wide)]
    actual = attend(q, k, v, do)
    for a, b in zip(actual, expected, strict=True):
        assert np.isfinite(a).all()
        same(a, b, dtype, factor=max(10, largest))  # float32's own rounding of a score of 1e4 is 1e-3


def test_attention_far_below_zero():
    """Every score about -1e4: all row sums underflow without the maximum."""
    q = np.full((1, 1, 70, 4), -50.0, np.float32)
    k = np.full((1, 1, 70, 4), 100.0, np.float32)
    v = np.random.default_rng(0).normal(size=q.shape).astype(np.float32)
    out = attend(q, k, v, v)[0]
    np.testing.assert_allclose(out[0, 0, -1], v[0, 0].mean(0), atol=1e-5)


def test_attention_ignores_what_lies_above_the_diagonal():
    """A later key whose score overflows must not leak NaN into earlier rows."""
    q, k, v = np.ones((3, 1, 1, 3, 4), np.float32)
    k[0, 0, 2] = 1e6
    out, dq, dk, dv = attend(q, k, v * np.arange(3, dtype=np.float32)[:, None], v)
    np.testing.assert_allclose(out[0, 0, :, 0], [0, 0.5, 2], atol=1e-6)
    assert all(np.isfinite(a).all() for a in (dq, dk, dv))


def test_dropout_mask():
    rng = np.random.default_rng(0)
    multipliers = rng.integers(0, 2**32, 6, dtype=np.uint32) | np.uint32(1)
    offsets = rng.integers(0, 2**32, 6, dtype=np.uint32)
    mask, work = np.empty((6, 5000), np.float32), np.empty((2, 6, 5000), np.uint32)
    tuned.dropout_mask(multipliers, offsets, 0.3, mask, work)
    np.testing.assert_array_equal(
        mask, plain.dropout_mask(multipliers, offsets, 5000, 0.3).astype(np.float32)
    )
    kept = mask > 0
    assert np.abs(kept.mean(axis=1) - 0.7).max() < 0.03  # 4.6 standard deviations of 5000 draws
    assert np.abs(np.corrcoef(kept) - np.eye(6)).max() < 0.07
