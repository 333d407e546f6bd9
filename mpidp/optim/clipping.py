"""Clipping by the norm of the whole gradient (Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063).

A strategy adds up `squared_norm` over the slices that its ranks hold, and hands `clip_scale` to `Optimizer.step`; where
the gradient lies on one rank whole, `clip_factor` is all of it.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from mpidp.arrays import Array, array_module, number

BLOCK = 1 << 16
PARTS, THREADS = 1024, 256  # on a device: sums that are added up in a second launch

SOURCE = r"""
__device__ double block_sum(double value) {
    __shared__ double parts[1024];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        __syncthreads();
    }
    return parts[0];
}

extern "C" __global__ void square_parts(const REAL* x, double* parts, long long count) {
    double sum = 0;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += (long long)gridDim.x * blockDim.x)
        sum += double(x[i]) * double(x[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// found = (the sum of all parts, the factor by which clipping multiplies)
extern "C" __global__ void clip(const double* parts, double* found, double limit, long long count) {
    double sum = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x > 0) return;
    double norm = sqrt(sum);
    found[0] = sum;
    found[1] = limit != 0 && norm > limit ? limit / norm : 1.0;
}
"""
"""CUDA C++, as `nn/kernels/cuda_source.py`. One CuPy reduction of all elements would be the work of one block."""


def squared_norm(grads: Array) -> float:
    """Σ gᵢ² of a flat vector: products in its own type by blocks, their sums in float64."""
    if array_module(grads) is not np:
        return number(_on_device(grads, 0.0)[0])
    return sum(
        (float(np.dot(b, b)) for b in (grads[a : a + BLOCK] for a in range(0, len(grads), BLOCK))), 0.0
    )


def clip_factor(grads: Array, limit: float) -> float | Array:
    """`clip_scale` for the norm of a flat vector. On a device an array of one float64, which nobody waits for."""
    if array_module(grads) is np:
        return clip_scale(math.sqrt(squared_norm(grads)), limit)
    return _on_device(grads, limit)[1:]


def clip_scale(norm: float, limit: float) -> float:
    """min(1, limit / norm): times this, the gradient's norm is at most `limit`; 1 where `limit` is 0 (no clipping)."""
    return limit / norm if limit and norm > limit else 1.0


def _on_device(grads: Array, limit: float) -> Array:
    """(Σ gᵢ², min(1, limit / ‖g‖)), added up in the same order always."""
    xp = array_module(grads)
    kernel = _kernels(xp, grads.dtype)
    blocks = max(1, min(PARTS, -(-grads.size // THREADS)))
    parts, found = xp.empty(blocks, np.float64), xp.empty(2, np.float64)
    kernel("square_parts")((blocks,), (THREADS,), (grads, parts, np.int64(grads.size)))
    kernel("clip")((1,), (THREADS,), (parts, found, np.float64(limit), np.int64(blocks)))
    return found


@cache
def _kernels(xp: Any, dtype: np.dtype) -> Any:
    real = {"float32": "float", "float64": "double"}[dtype.name]
    return xp.RawModule(code=SOURCE, options=(f"-DREAL={real}",)).get_function
