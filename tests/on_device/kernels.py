"""Every CuPy kernel against its formula in `plain`, and the optimizers against those of the host."""

import numpy as np
import pytest

from mpidp.nn.kernels import kernels_for, plain
from mpidp.nn.layer import Arena, Parameter, constant
from mpidp.optim import OPTIMIZERS

TOLERANCE = {np.float32: 5e-6, np.float64: 1e-13}
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def same(actual, expected, dtype, factor=1.0):
    limit = factor * TOLERANCE[dtype] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual.get(), expected, rtol=0, atol=limit)


def drawn(dtype, *shapes, spread=1.0):
    """Normal numbers: as the kernels get them, and the same in float64."""
    rng = np.random.default_rng(len(shapes))
    host = [(spread * rng.normal(size=shape)).astype(dtype) for shape in shapes]
    return host, [a.astype(np.float64) for a in host]


@both
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (9, 300), (2, 5000)])
def test_layer_norm(cupy, dtype, shape):
    kernels = kernels_for(cupy)
    host, (x, gain, bias, dy) = drawn(dtype, shape, shape[1:], shape[1:], shape, spread=2)
    y, xhat, rstd = plain.layer_norm(x, gain, bias, 1e-5)
    expected = y, xhat, rstd, *plain.layer_norm_backward(dy, xhat, rstd, gain)
    x, gain, bias, dy = map(cupy.asarray, host)
    out = [cupy.full(a.shape, np.nan, dtype) for a in expected]
    y, xhat, rstd, dx, dgain, dbias = out
    work = kernels.workspace(Arena(cupy, dtype), shape[1])
    kernels.layer_norm(x, gain, bias, 1e-5, y, xhat, rstd, work)
    kernels.layer_norm_backward(dy, xhat, rstd, gain, dgain, dbias, dx, work)
    for actual, wanted in zip(out, expected, strict=True):
        same(actual, wanted, dtype, factor=100 if shape[1] == 1 else 5)


@both
@pytest.mark.parametrize("count", [1, 1000, 20_001])
def test_gelu(cupy, dtype, count):
    """What stays for backward is the kernels' own business; the slope is what backward multiplies by."""
    kernels = kernels_for(cupy)
    (host, other), (x, dy) = drawn(dtype, (count,), (count,), spread=3)
    work = kernels.workspace(Arena(cupy, dtype), 1)
    y, slope = plain.gelu(x)
    flat, kept, d = cupy.asarray(host), cupy.empty(count, dtype), cupy.asarray(other)
    out = kernels.gelu(flat, None, kept, True, work)
    same(out, y, dtype)
    kernels.gelu_backward(d, flat, None, kept, work)
    same(d, dy * slope, dtype, factor=3)


@both
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (6, 1000)])
@pytest.mark.parametrize("spread", [4, 1e4])
def test_softmax_cross_entropy(cupy, dtype, shape, spread):
    kernels = kernels_for(cupy)
    (host,), (z,) = drawn(dtype, shape, spread=spread)
    y = np.random.default_rng(0).integers(0, shape[1], shape[0]).astype(np.int32)
    losses, gradient = plain.softmax_cross_entropy(z, y)
    device, actual = cupy.asarray(host), cupy.empty(shape[0], dtype)
    kernels.softmax_cross_entropy(device, cupy.asarray(y), actual)
    same(actual, losses, dtype)
    assert (device.get() == host).all()  # without a scale nothing is written
    kernels.softmax_cross_entropy(device, cupy.asarray(y), actual, 0.25)
    same(actual, losses, dtype)
    same(device, 0.25 * gradient, dtype, factor=spread)


@both
@pytest.mark.parametrize("places", [1, 300])
def test_embedding_and_its_gradient(cupy, dtype, places):
    kernels = kernels_for(cupy)
    host, (dy, _, _) = drawn(dtype, (places, 6), (40, 6), (places, 6))
    ids = np.random.default_rng(0).integers(0, 40, places).astype(np.int32)
    out, grad = cupy.empty((1, places, 6), dtype), cupy.ones((40, 6), dtype)
    kernels.embedding(cupy.asarray(ids), cupy.asarray(host[1]), cupy.asarray(host[2]), out)
    assert (out.get()[0] == host[1][ids] + host[2]).all()
    kernels.embedding_gradient(cupy.asarray(ids), cupy.asarray(host[0]), grad)
    same(grad, 1 + plain.embedding_gradient(ids, dy, 40), dtype, factor=3)


@both
def test_dropout_mask(cupy, dtype):
    kernels = kernels_for(cupy)
    multipliers, offsets = np.random.default_rng(0).integers(0, 2**32, (2, 5), dtype=np.uint32)
    mask = cupy.empty((5, 700), dtype)
    kernels.dropout_mask(cupy.asarray(multipliers), cupy.asarray(offsets), 0.3, mask, None)
    assert (mask.get() == plain.dropout_mask(multipliers, offsets, 700, 0.3).astype(dtype)).all()


@both
@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 3, 5, 8), (1, 2, 70, 16)])
@pytest.mark.parametrize("spread", [1, 30])
def test_attention(cupy, dtype, shape, spread):
    batch, heads, tokens, depth = shape
    host, _ = drawn(dtype, *[(batch, tokens, heads * depth)] * 4)
    host[0] *= dtype(spread)

    def by_heads(x):
        return x.astype(np.float64).reshape(batch, tokens, heads, depth).transpose(0, 2, 1, 3)

    def joined(x):
        return x.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * depth)

    q, k, v, do = map(by_heads, host)
    expected = [plain.attention(q, k, v), *plain.attention_backward(q, k, v, do)]
    qkv, dout = cupy.asarray(np.concatenate(host[:3], axis=-1)), cupy.asarray(host[3])
    out, dqkv = cupy.full(host[0].shape, np.nan, dtype), cupy.full(qkv.shape, np.nan, dtype)
    core = kernels_for(cupy).CausalAttention(Arena(cupy, dtype), batch, tokens, heads, depth)
    core.forward(qkv, out)
    core.backward(qkv, out, dout, dqkv)
    width = heads * depth
    actual = [out, *(dqkv[..., i * width : (i + 1) * width] for i in range(3))]
    for a, b in zip(actual, map(joined, expected), strict=True):
        same(cupy.ascontiguousarray(a), b, dtype, factor=10 * spread)


@both
@pytest.mark.parametrize(
    "name, options",
    [
        ("adamw", {"weight_decay": 0.3}),
        ("sgd", {"weight_decay": 0.3}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.3}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_optimizers(cupy, dtype, name, options):
    """On slices, with runs that decay and others that do not."""
    kind, at, parameters = OPTIMIZERS[name], 0, []
    for i, shape in enumerate([(5,), (2, 3), (9,), (13, 1), (50,)]):
        parameters.append(Parameter(f"p{i}", shape, constant(0.0)))
        parameters[-1].lo, parameters[-1].hi = at, at + parameters[-1].size
        at = parameters[-1].hi
    (host, *grads), _ = drawn(dtype, *[(40,)] * 4)
    device = cupy.asarray(host)
    ours, theirs = (kind(kind.Options(**options), parameters, 3, 43, x) for x in (device, host))
    for t, g in enumerate(grads, 1):
        theirs.step(host, g, 3, 0.05, t, 0.6)
        for a, b in ((0, 17), (17, 40)):
            ours.step(device[a:b], cupy.asarray(g)[a:b], 3 + a, 0.05, t, 0.6)
    same(device, host, dtype)
    for actual, expected in zip(ours.state().values(), theirs.state().values(), strict=True):
        same(actual, expected, dtype)
