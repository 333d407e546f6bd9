"""Attention's CUDA kernels for all types against the formula in float64, and which of them is chosen."""

import re

import numpy as np
import pytest

from mpidp.errors import UserError
from mpidp.nn.kernels import cuda_attention_scalar, plain
from mpidp.nn.kernels.attention_plan import (
    BF16,
    FORWARD,
    FP16,
    ROLES,
    SHARED,
    TF32,
    all_kernels,
    chosen,
)
from mpidp.nn.kernels.products import Products
from mpidp.nn.layer import Arena, Ruler

TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "tf32": 1.5e-3, "float16": 1.5e-3, "bfloat16": 1.2e-2}
"""Of the largest number, or of 1: some roundings of operands and of probabilities, and of results kept in 16 bits."""
NARROW = {"float16": np.float16, "bfloat16": np.uint16}
ALL = ("qkv", "out", "dout", "dqkv")
CASES = [
    ("float64", (2, 3, 70, 20), ()),
    ("float32", (2, 2, 70, 20), ()),
    ("float32", (1, 1, 150, 64), ()),
    ("tf32", (1, 3, 130, 32), ()),
    ("tf32", (1, 1, 40, 128), ()),
    ("float16", (2, 1, 65, 48), ALL),
    ("bfloat16", (2, 2, 150, 64), ALL),
    ("bfloat16", (1, 1, 1, 64), ALL),
    ("bfloat16", (1, 2, 70, 128), ("out", "dqkv")),
    ("bfloat16", (1, 2, 70, 20), ALL),  # by scalar arithmetic
]
"""Type of products; samples, heads, tokens and columns; and what is kept in 16 bits."""
MARGIN = 64  # elements around each array that nobody may read or write


def narrowed(x, dtype):
    if dtype == "float16":
        return x.astype(np.float16)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(x):
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32) if x.dtype == np.float16 else x


def joined(*heads):
    """(B, H, T, D) each to (B, T, n H D)."""
    batch, _, tokens, _ = heads[0].shape
    parts = [x.transpose(0, 2, 1, 3).reshape(batch, tokens, -1) for x in heads]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1))


def attend(cupy, dtype, qkv, dout, heads, depth, narrow=()):
    """(q, k, v, do) as the kernels found them, and what they made of them; `narrow`: roles kept in 16 bits."""
    from mpidp.nn.kernels.cupy_attention import CausalAttention

    products = Products(cupy)
    products.tf32 = dtype == "tf32"
    products.narrow = np.dtype(NARROW[dtype]) if dtype in NARROW else None
    batch, tokens, _ = qkv.shape
    arena = Arena(cupy, np.float64 if dtype == "float64" else np.float32, products)
    core = CausalAttention(arena, batch, tokens, heads, depth)
    arrays = {"qkv": qkv, "out": np.full_like(dout, np.nan), "dout": dout, "dqkv": np.full_like(qkv, np.nan)}
    whole, placed = {}, {}
    for role, x in arrays.items():
        x = narrowed(x, dtype) if role in narrow else x.astype(arena.dtype)
        whole[role] = cupy.asarray(np.pad(x.reshape(-1), MARGIN, constant_values=x.dtype.type(127)))
        placed[role] = whole[role][MARGIN:-MARGIN].reshape(x.shape)
    core.forward(placed["qkv"], placed["out"])
    core.backward(*placed.values())
    for x in whole.values():
        assert (x.get()[:MARGIN] == 127).all() and (x.get()[-MARGIN:] == 127).all()

    def parted(role):
        return widened(placed[role].get()).reshape(batch, tokens, -1, heads, depth).transpose(2, 0, 3, 1, 4)

    return [*parted("qkv"), *parted("dout")], [*parted("out"), *parted("dqkv")]


def check(found, made, tolerance):
    q, k, v, do = (x.astype(np.float64) for x in found)
    for actual, expected in zip(
        made, [plain.attention(q, k, v), *plain.attention_backward(q, k, v, do)], strict=True
    ):
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1))


def draw(shape, seed=0):
    q, k, v, do = np.random.default_rng(seed).normal(size=(4, *shape))
    return joined(q, k, v), joined(do)


@pytest.mark.parametrize("dtype, shape, narrow", CASES)
def test_is_the_formula(cupy, dtype, shape, narrow):
    check(*attend(cupy, dtype, *draw(shape), shape[1], shape[3], narrow), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype, depth", [("float32", 20), ("bfloat16", 64)])
@pytest.mark.parametrize("largest", [200.0, 1e4])
def test_large_scores_do_not_overflow(cupy, dtype, depth, largest):
    """Where 2^S would overflow, or underflow for all keys of a query that are seen first."""
    qkv, dout = draw((1, 1, 150, depth))
    q, k = qkv[0, :, :depth], qkv[0, :, depth : 2 * depth]
    q *= largest / np.abs(q @ k.T / np.sqrt(depth)).max()
    found, made = attend(cupy, dtype, qkv, dout, 1, depth, ALL if dtype in NARROW else ())
    assert all(np.isfinite(x).all() for x in made)
    expected = plain.attention(*(x.astype(np.float64) for x in found[:3]))
    np.testing.assert_allclose(made[0], expected, rtol=0, atol=TOLERANCE[dtype] * max(10, largest / 10))


def test_what_lies_above_the_diagonal_is_ignored(cupy):
    """A later key whose score overflows must not leak into earlier rows."""
    qkv, dout = draw((1, 1, 70, 64))
    qkv[0, 69, 64:128] = 3e38
    _, made = attend(cupy, "bfloat16", qkv, dout, 1, 64, ALL)
    changed, _ = draw((1, 1, 70, 64))
    _, expected = attend(cupy, "bfloat16", changed, dout, 1, 64, ALL)
    np.testing.assert_array_equal(made[0][..., :69, :], expected[0][..., :69, :])


def test_memory_grows_with_tokens_and_not_with_their_square(cupy):
    from mpidp.nn.kernels.cupy_attention import CausalAttention

    asked = []
    for tokens in (1024, 2048):
        ruler = Ruler(cupy, np.float32)
        CausalAttention(ruler, 2, tokens, 3, 64)
        asked.append(ruler.asked)
    assert asked[1] <= 2 * asked[0] <= 2 * 2 * 4 * 2 * 3 * 1024


def test_heads_that_no_kernel_takes_are_refused(cupy):
    from mpidp.nn.kernels.cupy_attention import CausalAttention

    with pytest.raises(UserError, match="heads of 1024 columns"):
        CausalAttention(Ruler(cupy, np.float32), 1, 8, 1, 1024)
    limit = int(re.search(r"(\d+) at most", str(refused(512))).group(1))
    assert refused(limit) is None and refused(limit + 1) is not None


def refused(depth):
    types = dict.fromkeys(("QKV", "OUT", "DOUT", "DQKV"), "float")
    try:
        for name in ROLES:
            chosen(name, None, "float", depth, types)
    except UserError as error:
        return error
    return None


def test_who_computes():
    def source(operands, depth, real="float"):
        return chosen(FORWARD, operands, real, depth, {"QKV": real, "OUT": real}).source

    for operands in (BF16, FP16, TF32):
        assert all("multiply_add" in source(operands, depth) for depth in range(16, 129, 16))
        for depth in (8, 24, 144):
            assert cuda_attention_scalar.FORWARD in source(operands, depth)
    assert cuda_attention_scalar.FORWARD in source(None, 64)
    assert cuda_attention_scalar.FORWARD in source(BF16, 64, "double")


def test_every_kernel_fits_every_gpu():
    for kernel in all_kernels():
        assert kernel.shared <= SHARED and kernel.threads % 32 == 0
