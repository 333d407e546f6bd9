"""NumPy or CuPy, decided by the array at hand and never by a global switch."""

from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: CuPy need not be installed, so there is no common type to name.


def array_module(x: Array) -> ModuleType:
    """The module whose functions take `x`: `numpy`, or `cupy` for an array on a CUDA device."""
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    return np


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array: itself if it is one already, else a copy in host memory."""
    return x if isinstance(x, np.ndarray) else x.get()


def number(x: Any) -> float:
    """The one number in `x`, on the host: on a device this waits until it is computed."""
    return float(x.get()) if hasattr(x, "get") else float(x)


def finish(xp: ModuleType) -> None:
    """Wait until a device has done all that this thread has given it; the host has, always."""
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


def address(x: Array) -> int:
    """Where the memory of `x` begins, on the host or on its device."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


ALIGNMENT = 64  # bytes: a line of the cache, and the longest vector register


def zeros(xp: ModuleType, n: int, dtype: Any, start: int = 0) -> Array:
    """A vector of n zeros of the array module `xp`, each touched, as if cut at `start` from one that is aligned.

    NumPy's own large arrays lie 16 bytes behind a boundary, with which a sum of two of them takes twice as long.
    """
    if xp is not np:
        return xp.zeros(n, dtype)  # CuPy aligns to 512 bytes by itself
    dtype = np.dtype(dtype)
    memory = np.empty(n * dtype.itemsize + 2 * ALIGNMENT, np.uint8)
    offset = (start * dtype.itemsize - memory.ctypes.data) % ALIGNMENT
    vector = memory[offset : offset + n * dtype.itemsize].view(dtype)
    vector.fill(0)
    return vector
