"""The hot elementwise maths, three times with the same names.

`plain` is the formula in a few lines, the explanation and the tests' reference; `numpy_kernels` works in blocks that
stay in a core's cache and allocates no matrix; `cupy_kernels` fuses each formula into one or two launches.
Dense products have a contract of their own, `products`, with `mkl` as one who keeps it.
"""

from types import ModuleType
from typing import Any


def kernels_for(xp: Any) -> ModuleType:
    """The tuned kernels for arrays of module `xp` (numpy or cupy)."""
    if xp.__name__ == "cupy":
        from mpidp.nn.kernels import cupy_kernels

        return cupy_kernels
    from mpidp.nn.kernels import numpy_kernels

    return numpy_kernels
