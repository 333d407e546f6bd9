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
