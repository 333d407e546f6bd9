"""A stand-in for CuPy where there is no GPU: it computes on the host, and refuses what CuPy refuses.

And what CuPy only seems to do for nothing. Refused are functions, methods and arguments that CuPy does not have
(`api.json`); NumPy's arrays beside the device's; every copy to the host that nobody asked for (`float(x)`, `if x`,
`np.asarray(x)`: each waits for the device); what one stream has not finished, read on another or from the host
(`streams.py`). CUDA sources are compiled by the host's compiler (`kernels.py`). With this folder's parent on PYTHONPATH
it is what `import cupy` finds.
"""

import json
from pathlib import Path

import numpy as _np
from cupy import cuda, random
from cupy._array import ndarray
from cupy.functions import function as _function
from cupy.kernels import ElementwiseKernel, RawKernel, RawModule, ReductionKernel

__all__ = [
    "ElementwiseKernel",
    "RawKernel",
    "RawModule",
    "ReductionKernel",
    "cuda",
    "linalg",
    "ndarray",
    "random",
]

_API = json.loads(Path(__file__).with_name("api.json").read_text())
__version__ = _API["version"]

for _name, _parameters in _API["functions"].items():
    if _name not in globals():
        globals()[_name] = _function(getattr(_np, _name), _parameters)

for _name in "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 dtype".split():
    globals()[_name] = getattr(_np, _name)
pi, inf, nan, newaxis = _np.pi, _np.inf, _np.nan, None


class linalg:
    qr = staticmethod(_function(_np.linalg.qr, ["a", "mode"]))
    norm = staticmethod(_function(_np.linalg.norm, ["x", "ord", "axis", "keepdims"]))


class lib:
    class stride_tricks:
        as_strided = staticmethod(_function(_np.lib.stride_tricks.as_strided, ["x", "shape", "strides"]))


class _Pool:
    """The memory pool, which here has nothing but a limit."""

    limit = 0

    def set_limit(self, size=None, fraction=None):
        self.limit = size or 0

    def get_limit(self):
        return self.limit

    def total_bytes(self):
        return 0

    def free_all_blocks(self, stream=None):
        pass


_pool = _Pool()


def get_default_memory_pool():
    return _pool


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else _np.asarray(a)


def get_array_module(*arrays):
    import sys

    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in arrays) else _np
