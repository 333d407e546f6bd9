"""NumPy's functions as CuPy has them."""

import numpy as np
from cupy._array import flat, given, ndarray, perform, unwrapped, wrapped
from cupy.streams import get_current_stream

WRITES_FIRST = {"copyto", "put", "place", "putmask", "fill_diagonal"}
CREATE = {"asarray", "array", "ascontiguousarray", "asfortranarray"}
UFUNC = ["out", "casting", "dtype"]


def function(numpys, parameters):
    """NumPy's function as CuPy has it."""
    name = numpys.__name__

    def call(*args, **kwargs):
        allowed = UFUNC if parameters == "ufunc" else parameters
        known = {"args", "kwargs"} & set(allowed)
        if not known or parameters == "ufunc":
            unknown = kwargs.keys() - set(allowed)
            if unknown:
                raise TypeError(f"CuPy's {name} takes no {', '.join(sorted(unknown))}")
        if name not in CREATE and any(isinstance(a, np.ndarray) for a in flat([args, kwargs])):
            raise TypeError(f"{name} of a host array: asarray() first")
        if parameters == "ufunc" and any(isinstance(a, list | tuple) for a in args):
            raise TypeError(f"Unsupported type for {name}: a list")
        if any(isinstance(a, np.ndarray) and a.dtype.hasobject for a in flat([args])):
            raise TypeError("a device array of objects")
        if get_current_stream().recorded is not None and name in CREATE and isinstance(args[0], np.ndarray):
            raise RuntimeError(
                "cudaErrorStreamCaptureUnsupported: a copy from memory that is not page-locked"
            )
        kwargs.pop("blocking", None)
        out = kwargs.get(
            "out", args[numpys.nin] if parameters == "ufunc" and len(args) > numpys.nin else None
        )
        sources = [a._memory for a in flat([args]) if isinstance(a, ndarray)]

        def run():
            return numpys(*unwrapped(args), **unwrapped(kwargs))

        def wrap(result):
            if name in CREATE and isinstance(args[0], ndarray) and result is args[0]._host:
                return args[0]
            if name in CREATE and isinstance(args[0], np.ndarray):
                result = np.array(result)  # on the device it is a copy
            if isinstance(result, np.ndarray) and sources and np.may_share_memory(result, unwrapped(args)[0]):
                return ndarray(None, _host=result, _memory=sources[0])  # a view
            return wrapped(result)

        if out is not None or name in WRITES_FIRST:
            perform([out, *(args[:1] if name in WRITES_FIRST else [])], run, [args, kwargs])
            return out
        return given([args, kwargs], run, wrap)

    call.__name__ = name
    return call
