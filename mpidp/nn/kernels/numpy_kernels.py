"""The kernels on NumPy: row blocks of ~64 thousand elements that stay in a core's cache, every result by `out`.

`work` is scratch memory from `workspace`; arrays are (rows, columns) unless said otherwise.
"""

import math

import numpy as np

BLOCK = 65536  # elements: 256 kB of float32; blocks of 8 to 16 thousand are 20 to 40 % slower


def workspace(arena, columns: int, arrays: int = 3):
    """Scratch for `arrays` blocks of rows of `columns` elements, shared by all kernels."""
    return arena.scratch("kernels", (arrays, max(BLOCK, columns)))


def _blocks(rows: int, columns: int):
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def softmax_cross_entropy(z, y, losses, scale=None) -> None:
    """losses_i = log Σ_j exp(z_ij) - z_i,y_i; with a scale, z becomes scale · (softmax(z) - onehot(y)), else anything."""
    rows, columns = z.shape
    ones = np.ones(columns, z.dtype)
    for lo, hi in _blocks(rows, columns):
        block, loss = z[lo:hi], losses[lo:hi]
        flat = block.reshape(-1)
        target = np.arange(hi - lo) * columns + y[lo:hi]
        block -= block.max(axis=1, keepdims=True)
        np.negative(flat[target], loss)
        np.exp(block, block)
        total = block @ ones
        if scale is not None:
            block *= (scale / total)[:, None]
            flat[target] -= scale
        loss += np.log(total)


def dropout_mask(multipliers, offsets, p: float, mask, work) -> None:
    """mask (B, n) becomes 0 with probability p, else 1/(1-p); see `plain.dropout_mask`."""
    x = work
    np.multiply(np.arange(mask.shape[1], dtype=np.uint32), multipliers[:, None], x)
    x += offsets[:, None]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    np.multiply(x >= np.uint32(min(round(p * 2**32), 2**32 - 1)), mask.dtype.type(1.0 / (1.0 - p)), mask)
