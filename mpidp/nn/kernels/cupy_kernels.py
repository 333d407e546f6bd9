"""The kernels on CuPy: a launch or two each, with the names and arguments of `numpy_kernels`.

Arrays that layers hand on between products may be of 16 bits; arithmetic, sums and parameters are of the model's type.
"""

from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.cupy_attention import CausalAttention
from mpidp.nn.kernels.cupy_launch import LARGEST_SHARED, NOTHING, THREADS, launch, strided

__all__ = ["CausalAttention"]

PARTS = 256  # blocks that leave a sum each, whatever the device, so that bits do not depend on it
STRETCHES = 64  # of rows, that are added up each on its own
WARP, PACK = 32, 8


def workspace(arena, columns: int):
    """Memory for the sums over rows that a layer norm's backward leaves, block by block."""
    return arena.scratch("kernels", (PARTS, 2, columns))


def sums_workspace(arena, rows: int, columns: int):
    """What `column_sums` needs."""
    return arena.scratch("kernels.sums", (_stretches(rows), columns))


def _stretches(rows: int) -> int:
    return min(STRETCHES, -(-rows // 8))


def layer_norm(x, gain, bias, eps, y, xhat, rstd, work) -> None:
    """y = gain · x̂ + bias, x̂ = (x - mean) · rstd, rstd = 1/√(var + eps) of every row."""
    rows, columns = x.shape
    sizes = np.int64(rows), np.int64(columns)
    arguments = x, gain, bias, x.dtype.type(eps), y, xhat, rstd, *sizes
    launch("layer_norm", (x.dtype, y.dtype), -(-rows * WARP // THREADS), *arguments)


def layer_norm_backward(dy, xhat, rstd, gain, dgain, dbias, dx, work, add=False) -> None:
    """dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)) with g = gain · dy; dgain = Σ dy · x̂, dbias = Σ dy (written).

    add: dx is added to what `dx` holds.
    """
    rows, columns = dy.shape
    sizes = np.int64(rows), np.int64(columns)
    one_warp = 2 * -(-columns // 256) * 256 * dx.dtype.itemsize
    warps = max(1, min(8, LARGEST_SHARED // one_warp))
    types, blocks = (dx.dtype, dy.dtype), min(PARTS, -(-rows // warps))
    arguments = dy, xhat, rstd, gain, dx, work, np.int32(add), *sizes
    launch("layer_norm_backward", types, blocks, *arguments, threads=warps * WARP, shared=warps * one_warp)
    _add_parts(work, blocks, 2 * columns, dgain, dbias)


def _add_parts(parts, count: int, columns: int, out, other=NOTHING) -> None:
    sizes = np.int64(out.size), np.int64(count), np.int64(columns)
    launch("add_parts", (out.dtype, out.dtype), -(-columns // WARP), parts, out, other, *sizes, threads=1024)


def column_sums(x, out, work) -> None:
    """out = Σ of the rows of x, always in the same order."""
    rows, columns = x.shape
    packs = columns % PACK == 0 and x.data.ptr % 16 == 0
    tiles = -(-columns // (WARP * (PACK if packs else 1)))
    stretches = _stretches(rows)
    sizes = np.int32(tiles), np.int32(packs), np.int64(rows), np.int64(columns)
    launch("column_sums", (out.dtype, x.dtype), tiles * stretches, x, work, *sizes)
    _add_parts(work, stretches, columns, out)


def add_bias(y, bias) -> None:
    """y += bias, for rows y."""
    launch("add_bias", (bias.dtype, y.dtype), _packs(y), y, bias, *_sizes(y))


def add(x, y, bias=None) -> None:
    """x += y + bias, for rows x and y (which may be lost)."""
    launch("add", (x.dtype, y.dtype), _packs(y), x, y, NOTHING if bias is None else bias, *_sizes(y))


def gelu(x, bias, kept, training: bool, work):
    """½ v (1 + tanh u), u = √(2/π) (v + 0.044715 v³), v = x + bias, for rows x; what `gelu_backward` needs stays.

    Written into `kept`, for backward computes the slope out of x: one load less than reading it.
    """
    types = work.dtype, x.dtype
    launch("gelu", types, _packs(x), x, NOTHING if bias is None else bias, kept, *_sizes(x))
    return kept


def gelu_backward(dy, x, bias, kept, work) -> None:
    """dy becomes dy times the slope of `gelu` at x + bias."""
    types = work.dtype, x.dtype
    launch("gelu_backward", types, _packs(x), x, NOTHING if bias is None else bias, dy, *_sizes(x))


def _packs(x) -> int:
    return strided(-(-x.size // PACK))


def _sizes(x) -> tuple[Any, Any]:
    return np.int64(x.size), np.int64(x.shape[-1])


def softmax_cross_entropy(z, y, losses, scale=None) -> None:
    """losses_i = log Σ_j exp(z_ij) - z_i,y_i; with a scale, z becomes scale · (softmax(z) - onehot(y)).

    The rows of z may lie further apart than they are long.
    """
    rows, columns = z.shape
    step = z.strides[0] // z.itemsize if rows > 1 else columns
    if step > columns:  # of the memory as a whole, which begins where z does
        z = cupy.lib.stride_tricks.as_strided(z, (rows, step), z.strides)
    factor, write = losses.dtype.type(scale or 0), np.int32(scale is not None)
    arguments = z, y.astype(np.int32, copy=False), losses, factor, write, np.int64(columns), np.int64(step)
    launch("softmax_cross_entropy", (losses.dtype, z.dtype), rows, *arguments, threads=_row_threads(columns))


def _row_threads(columns: int) -> int:
    """Of a block for such a row: two packs or more for each."""
    return min(1024, max(WARP, 1 << (columns // (2 * PACK)).bit_length()))


def embedding(ids, table, positions, out) -> None:
    """out (B, T, C): out[b, t] = table[ids[b, t]] + positions[t], ids flat (not checked: that would wait)."""
    tokens, columns = out.shape[1:]
    sizes = np.int64(tokens), np.int64(ids.size), np.int64(columns)
    ids = ids.astype(np.int32, copy=False)
    blocks = -(-ids.size * WARP // THREADS)
    launch("embedding", (out.dtype, out.dtype), blocks, ids, table, positions, out, *sizes)


def embedding_gradient(ids, dy, grad) -> None:
    """grad[v] += Σ of dy over the places where ids = v, always summed in the same order."""
    places, columns = dy.shape
    ids = ids.astype(np.int32, copy=False)
    sizes = np.int64(places), np.int64(columns)
    launch("embedding_gradient", (dy.dtype, dy.dtype), places, ids, dy, grad, *sizes)


def dropout_mask(multipliers, offsets, p: float, mask, work) -> None:
    """mask (B, n) becomes 0 with probability p, else 1/(1-p); see `plain.dropout_mask`."""
    constants = np.uint32(round(p * 2**32)), mask.dtype.type(1.0 / (1.0 - p))
    sizes = np.int64(mask.shape[0]), np.int64(mask.shape[1])
    types = mask.dtype, mask.dtype
    launch("dropout_mask", types, strided(mask.size), multipliers, offsets, *constants, mask, *sizes)
