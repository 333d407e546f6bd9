"""Clipping by the norm of the whole gradient (Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063).

A strategy adds up `squared_norm` over the slices that its ranks hold, and hands `clip_scale` to `Optimizer.step`.
"""

from functools import cache

import numpy as np

from mpidp.arrays import Array, array_module, number

BLOCK = 1 << 16


def squared_norm(grads: Array) -> float:
    """Σ gᵢ² of a flat vector: products in its own type by blocks, their sums in float64."""
    if array_module(grads) is not np:
        return number(_device_squared_norm()(grads))
    return sum(
        (float(np.dot(b, b)) for b in (grads[a : a + BLOCK] for a in range(0, len(grads), BLOCK))), 0.0
    )


@cache
def _device_squared_norm():
    import cupy

    return cupy.ReductionKernel(
        "T x", "float64 y", "double(x) * double(x)", "a + b", "y = a", "0", "mpidp_squared_norm"
    )


def clip_scale(norm: float, limit: float) -> float:
    """min(1, limit / norm): times this, the gradient's norm is at most `limit`; 1 where `limit` is 0 (no clipping)."""
    return limit / norm if limit and norm > limit else 1.0
