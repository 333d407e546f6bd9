"""The kernels on CuPy: a launch or two each, with the names and arguments of `numpy_kernels`."""

from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.cuda_source import SOURCE
from mpidp.nn.kernels.cupy_attention import CausalAttention as CausalAttention

THREADS = 256
BLOCKS = 4096  # for kernels whose threads stride over all elements


@cache
def _module(dtype: np.dtype) -> Any:
    real = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    return cupy.RawModule(code=SOURCE, options=(f"-DREAL={real}",))


def _launch(name: str, dtype: np.dtype, blocks: int, *arguments: Any) -> None:
    if blocks:
        _module(dtype).get_function(name)((blocks,), (THREADS,), arguments)


def _strided(count: int) -> int:
    return min(BLOCKS, -(-count // THREADS))


def workspace(arena, columns: int):
    """CuPy's memory pool serves what the kernels need in between."""
    return None


def layer_norm(x, gain, bias, eps, y, xhat, rstd, work) -> None:
    """y = gain · x̂ + bias, x̂ = (x - mean) · rstd, rstd = 1/√(var + eps) of every row."""
    rows, columns = x.shape
    _launch("layer_norm", x.dtype, rows, x, gain, bias, x.dtype.type(eps), y, xhat, rstd, np.int64(columns))


def layer_norm_backward(dy, xhat, rstd, gain, dgain, dbias, dx, work) -> None:
    """dx = rstd · (g - mean(g) - x̂ · mean(g · x̂)) with g = gain · dy; dgain = Σ dy · x̂, dbias = Σ dy (written)."""
    rows, columns = dy.shape
    product = cupy.empty_like(dy)
    _launch("layer_norm_backward", dy.dtype, rows, dy, xhat, rstd, gain, dx, product, np.int64(columns))
    cupy.sum(product, axis=0, out=dgain)
    cupy.sum(dy, axis=0, out=dbias)


def gelu(x, y, slope, work) -> None:
    """y = ½ x (1 + tanh u), u = √(2/π) (x + 0.044715 x³); slope = dy/dx unless None. All flat; y may be x."""
    place = np.uintp(0) if slope is None else slope
    _launch("gelu", x.dtype, _strided(x.size), x, y, place, np.int64(x.size))


def softmax_cross_entropy(z, y, losses, scale=None) -> None:
    """losses_i = log Σ_j exp(z_ij) - z_i,y_i; with a scale, z becomes scale · (softmax(z) - onehot(y))."""
    rows, columns = z.shape
    factor, write = z.dtype.type(scale or 0), np.int32(scale is not None)
    y = y.astype(np.int32, copy=False)
    _launch("softmax_cross_entropy", z.dtype, rows, z, y, losses, factor, write, np.int64(columns))


def embedding(ids, table, out) -> None:
    """out[i] = table[ids[i]] for flat ids (not checked: that would wait for the device)."""
    cupy.take(table, ids, axis=0, out=out)


def embedding_gradient(ids, dy, grad) -> None:
    """grad[v] += Σ of dy over the places where ids = v, always summed in the same order."""
    places, columns = dy.shape
    order = cupy.argsort(ids)
    found = ids[order].astype(np.int32, copy=False)
    order = order.astype(np.int64, copy=False)
    sizes = np.int64(places), np.int64(columns)
    _launch("embedding_gradient", dy.dtype, places, found, order, dy, grad, *sizes)


def dropout_mask(multipliers, offsets, p: float, mask, work) -> None:
    """mask (B, n) becomes 0 with probability p, else 1/(1-p); see `plain.dropout_mask`."""
    constants = np.uint32(round(p * 2**32)), mask.dtype.type(1.0 / (1.0 - p))
    sizes = np.int64(mask.shape[0]), np.int64(mask.shape[1])
    _launch("dropout_mask", mask.dtype, _strided(mask.size), multipliers, offsets, *constants, mask, *sizes)
