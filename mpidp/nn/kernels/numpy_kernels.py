"""The kernels on NumPy: row blocks of ~64 thousand elements that stay in a core's cache, every result by `out`.

`work` is scratch memory from `workspace`; arrays are (rows, columns) unless said otherwise. Constants meet arrays as
0-d arrays of their type, and row vectors are repeated to `_SPAN` elements, because NumPy pays ~50 ns for each row that
it cannot join with the next; rows that must stay apart are worked on `_in_place`.
"""

from collections.abc import Callable
from functools import cache, wraps

import numpy as np

from mpidp.nn.kernels.numpy_attention import CausalAttention
from mpidp.nn.kernels.plain import GELU_A, GELU_B

__all__ = [
    "CausalAttention",
    "add",
    "add_bias",
    "column_sums",
    "dropout_mask",
    "embedding",
    "embedding_gradient",
    "gelu",
    "gelu_backward",
    "layer_norm",
    "layer_norm_backward",
    "softmax_cross_entropy",
    "sums_workspace",
    "workspace",
]

BLOCK = 65536  # elements: 256 kB of float32; blocks of 8 to 16 thousand are 20 to 40 % slower
SAFE = 30.0  # logits within ±SAFE neither overflow nor vanish in a row's sum: no maximum need be subtracted
_SPAN = 2048  # elements
_LONG = 384  # elements: rows from which on the copies that `_in_place` saves cost more than more calls do


def workspace(arena, columns: int):
    """Scratch for two blocks of whole rows, shared by all kernels."""
    return arena.scratch("kernels", (2, max(BLOCK, columns)))


def sums_workspace(arena, rows: int, columns: int):
    """What `column_sums` needs: a vector of ones."""
    return arena.ones(rows)


def _blocks(rows: int, columns: int):
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


@cache
def _ones(count: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(count, dtype)


@cache
def _constants(dtype: np.dtype, *values: float) -> list[np.ndarray]:
    return [np.array(value, dtype) for value in values]


def _wide(rows: int, *vectors: np.ndarray) -> list[np.ndarray]:
    """Each vector once for every row of a longer row that joins several: as many as a power of two divides `rows`."""
    columns, count = len(vectors[0]), 1
    while count * columns < _SPAN and rows % (2 * count) == 0:
        count *= 2
    repeated = np.empty((len(vectors), count, columns), vectors[0].dtype)
    for row, vector in zip(repeated, vectors, strict=True):
        row[...] = vector
    return list(repeated.reshape(len(vectors), count * columns))


def _in_place(kernel: Callable[..., None]) -> Callable[..., None]:
    """`kernel` with ufuncs that read and write long rows where they are.

    Operands whose rows cannot be joined (a factor for each row) NumPy copies piece by piece into buffers of 8192
    elements, to have long inner loops: at 768 columns 0.36 ns an element instead of 0.17. With buffers shorter than a
    row it goes without them.
    """

    @wraps(kernel)
    def run(x: np.ndarray, *rest: np.ndarray) -> None:
        if x.shape[1] < _LONG:
            return kernel(x, *rest)
        before = np.setbufsize(16)  # the least; it holds for this thread alone
        try:
            kernel(x, *rest)
        finally:
            np.setbufsize(before)

    return run


@_in_place
def layer_norm(x, gain, bias, eps, y, xhat, rstd, work) -> None:
    """y = gain · x̂ + bias, x̂ = (x - mean) · rstd, rstd = 1/√(var + eps) of every row."""
    rows, columns = x.shape
    mean_of = _ones(columns, x.dtype) / x.dtype.type(columns)
    for lo, hi in _blocks(rows, columns):
        centred, scale = xhat[lo:hi], rstd[lo:hi]
        mean = np.matmul(x[lo:hi], mean_of)
        np.subtract(x[lo:hi], mean[:, None], centred)
        np.vecdot(centred, centred, scale)
        scale /= columns
        scale += eps
        np.sqrt(scale, scale)
        np.reciprocal(scale, scale)
        centred *= scale[:, None]
        gains, biases = _wide(hi - lo, gain, bias)
        wide_y = y[lo:hi].reshape(-1, len(gains))
        np.multiply(centred.reshape(wide_y.shape), gains, wide_y)
        wide_y += biases


@_in_place
def layer_norm_backward(dy, xhat, rstd, gain, dgain, dbias, dx, work, add=False) -> None:
    """dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)) with g = gain · dy; dgain = Σ dy · x̂, dbias = Σ dy (written).

    add: dx is added to what `dx` holds.
    """
    rows, columns = dy.shape
    gain_mean = gain / gain.dtype.type(columns)
    for lo, hi in _blocks(rows, columns):
        dy_block, xhat_block = dy[lo:hi], xhat[lo:hi]
        dx_block = work[1, : dy_block.size].reshape(dy_block.shape) if add else dx[lo:hi]
        ones = _ones(hi - lo, dy.dtype)
        product = work[0, : dy_block.size].reshape(dy_block.shape)
        np.multiply(dy_block, xhat_block, product)
        along_xhat = np.matmul(product, gain_mean)  # mean(g · x̂)
        mean = np.matmul(dy_block, gain_mean)  # mean(g)
        if lo == 0:
            np.matmul(ones, product, dgain)
            np.matmul(ones, dy_block, dbias)
        else:
            dgain += np.matmul(ones, product)
            dbias += np.matmul(ones, dy_block)
        np.multiply(xhat_block, along_xhat[:, None], product)
        product += mean[:, None]
        (gains,) = _wide(hi - lo, gain)
        wide_dx = dx_block.reshape(-1, len(gains))
        np.multiply(dy_block.reshape(wide_dx.shape), gains, wide_dx)
        dx_block -= product
        dx_block *= rstd[lo:hi, None]
        if add:
            dx[lo:hi] += dx_block


def column_sums(x, out, work) -> None:
    """out = Σ of the rows of x."""
    np.matmul(work, x, out)


def add_bias(y, bias) -> None:
    """y += bias, for rows y."""
    y += bias


def add(x, y, bias=None) -> None:
    """x += y + bias, for rows x and y (which may be lost)."""
    if bias is not None:
        y += bias
    x += y


def gelu(x, bias, kept, training: bool, work):
    """½ v (1 + tanh u), u = √(2/π) (v + 0.044715 v³), v = x + bias, for rows x; what `gelu_backward` needs stays.

    Written over x, and in training the slope into `kept`. With p = u/v and s = ½ (1 + tanh u): y = v s, and
    dy/dv = s + 2 y (1 - s) u', u' = 3p - 2√(2/π).
    """
    if bias is not None:
        x += bias
    _gelu(x.reshape(-1), kept.reshape(-1) if training else None, work)
    return x


def gelu_backward(dy, x, bias, kept, work) -> None:
    """dy becomes dy times the slope of `gelu` at x + bias."""
    dy *= kept


def _gelu(x, slope, work) -> None:
    a, ab, half, six, four_a = _constants(x.dtype, GELU_A, GELU_A * GELU_B, 0.5, 6.0, 4 * GELU_A)
    for lo in range(0, x.size, BLOCK):
        x_block = x[lo : lo + BLOCK]
        y_block = x_block
        p, s = work[0, : x_block.size], work[1, : x_block.size]
        np.multiply(x_block, x_block, p)
        np.multiply(p, ab, p)
        np.add(p, a, p)
        np.multiply(p, x_block, s)
        np.tanh(s, s)
        np.multiply(s, half, s)
        np.add(s, half, s)
        np.multiply(x_block, s, y_block)
        if slope is not None:
            slope_block = slope[lo : lo + BLOCK]
            np.multiply(p, six, p)
            np.subtract(p, four_a, p)
            np.multiply(p, y_block, p)
            np.multiply(p, s, slope_block)
            np.subtract(p, slope_block, p)
            np.add(p, s, slope_block)


def softmax_cross_entropy(z, y, losses, scale=None) -> None:
    """losses_i = log Σ_j exp(z_ij) - z_i,y_i; with a scale, z becomes scale · (softmax(z) - onehot(y)).

    Without one z is lost.
    """
    rows, columns = z.shape
    ones = _ones(columns, z.dtype)
    for lo, hi in _blocks(rows, columns):
        block, loss = z[lo:hi], losses[lo:hi]
        flat = block.reshape(-1)
        target = np.arange(hi - lo) * columns + y[lo:hi]
        if not max(block.max(), -block.min()) < SAFE:
            block -= block.max(axis=1, keepdims=True)
        picked = flat[target]
        np.exp(block, block)
        total = block @ ones
        if scale is not None:
            block *= (scale / total)[:, None]
            flat[target] -= scale
        loss[...] = np.log(total, dtype=np.float64) - picked


def embedding(ids, table, positions, out) -> None:
    """out (B, T, C): out[b, t] = table[ids[b, t]] + positions[t], ids flat; one outside the table is an IndexError."""
    if ids.size and not (0 <= ids.min() and ids.max() < len(table)):
        raise IndexError(f"token ids from {ids.min()} to {ids.max()}, but the table has {len(table)} rows")
    rows = out.reshape(-1, out.shape[-1])
    np.take(table, ids, axis=0, out=rows, mode="clip")  # mode="raise" would work in a copy of `out`
    out += positions


def embedding_gradient(ids, dy, grad) -> None:
    """grad[v] += Σ of dy over the places where ids = v: rows sorted by id, then summed run by run."""
    order = np.argsort(ids, kind="stable")
    found = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], found[1:] != found[:-1])))
    grad[found[starts]] += np.add.reduceat(dy[order], starts, axis=0)


def dropout_mask(multipliers, offsets, p: float, mask, work) -> None:
    """mask (B, n) becomes 0 with probability p, else 1/(1-p); see `plain.dropout_mask`."""
    x, shifted = work
    np.multiply(np.arange(mask.shape[1], dtype=np.uint32), multipliers[:, None], x)
    x += offsets[:, None]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        np.right_shift(x, np.uint32(shift), shifted)
        x ^= shifted
        x *= np.uint32(factor)
    np.multiply(x >= np.uint32(round(p * 2**32)), mask.dtype.type(1.0 / (1.0 - p)), mask)
