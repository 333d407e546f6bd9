"""The kernels on CuPy: a launch or two each, with the names and arguments of `numpy_kernels`."""

import math
from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.cuda_source import SOURCE

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


class CausalAttention:
    """O = softmax(q kᵀ / √D, no key later than its query) v for all heads, as batched products and a fused softmax.

    dv = Pᵀ dO, dS = P ∘ (dO vᵀ - Σ_j P ∘ dO vᵀ) / √D, dq = dS k, dk = dSᵀ q.
    """

    def __init__(self, arena, batch: int, tokens: int, heads: int, depth: int):
        self.shape = batch, tokens, heads, depth
        self.dtype = arena.dtype
        self.scale = self.dtype.type(1.0 / math.sqrt(depth))
        per_head = (batch, heads, tokens, depth)
        self.qkv = arena.empty((3, *per_head))
        self.dqkv = arena.scratch("attention.heads", (3, *per_head))
        self.o = arena.scratch("attention.o", per_head)
        self.p = arena.empty((batch, heads, tokens, tokens))
        self.dp = arena.scratch("attention.dp", self.p.shape)

    def _heads(self, x, parts: int):
        """(B, T, parts · C) as (parts, B, H, T, D)."""
        batch, tokens, heads, depth = self.shape
        return x.reshape(batch, tokens, parts, heads, depth).transpose(2, 0, 3, 1, 4)

    def forward(self, qkv, out) -> None:
        """qkv (B, T, 3C) to out (B, T, C)."""
        batch, tokens, heads, _ = self.shape
        self.qkv[...] = self._heads(qkv, 3)
        q, k, v = self.qkv
        cupy.matmul(q, k.swapaxes(2, 3), out=self.p)
        _launch("causal_softmax", self.dtype, batch * heads * tokens, self.p, self.scale, np.int64(tokens))
        cupy.matmul(self.p, v, out=self.o)
        self._heads(out, 1)[0][...] = self.o

    def backward(self, qkv, out, dout, dqkv) -> None:
        """dout (B, T, C) to dqkv (B, T, 3C), for the qkv and out of the last forward."""
        batch, tokens, heads, _ = self.shape
        q, k, v = self.qkv
        dq, dk, dv = self.dqkv
        self.o[...] = self._heads(dout, 1)[0]
        cupy.matmul(self.p.swapaxes(2, 3), self.o, out=dv)
        cupy.matmul(self.o, v.swapaxes(2, 3), out=self.dp)
        rows = batch * heads * tokens
        _launch("causal_softmax_backward", self.dtype, rows, self.p, self.dp, self.scale, np.int64(tokens))
        cupy.matmul(self.dp, k, out=dq)
        cupy.matmul(self.dp.swapaxes(2, 3), q, out=dk)
        self._heads(dqkv, 3)[...] = self.dqkv
