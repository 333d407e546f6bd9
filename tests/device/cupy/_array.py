"""The array."""

import ctypes
import json
import os
from pathlib import Path

import numpy as np
from cupy.address import Address, Pointer
from cupy.ipc import Part
from cupy.streams import Memory, Race, get_current_stream

METHODS = set(json.loads(Path(__file__).with_name("api.json").read_text())["methods"])
VIEWS = {"reshape", "view", "ravel", "transpose", "swapaxes", "squeeze", "diagonal"}
IN_PLACE = {"fill", "sort", "partition", "put", "resize"}
TO_HOST = {"get", "item", "tolist", "tobytes", "tofile", "dump", "dumps"}
ALIGNMENT = 512


class ndarray:
    """An array in device memory, which is host memory that nobody may look at."""

    __module__ = "cupy"

    def __init__(self, shape, dtype=float, memptr=None, *, _host=None, _memory=None):
        if memptr is not None:
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            _host = np.frombuffer((ctypes.c_char * count).from_address(memptr.ptr), dtype).reshape(shape)
            _memory = Part(memptr.mem.region)
        self._host = aligned(np.ndarray(shape, dtype)) if _host is None else _host
        self._memory = _memory or Memory()

    # What NumPy or Python would do with it unasked

    def _refuse(self, *_, **__):
        raise TypeError("a copy to the host that nobody asked for: say to_host(x) where one is meant")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __complex__ = _refuse
    __array_priority__ = 100
    __hash__ = None

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__":
            return NotImplemented
        import cupy

        if out is not None:
            kwargs["out"] = out[0] if len(out) == 1 else out
        return getattr(cupy, ufunc.__name__)(*inputs, **kwargs)

    # Where the memory is

    @property
    def data(self):
        return Pointer(Address.of(self))

    @property
    def __cuda_array_interface__(self):
        """For MPI libraries that read device memory: not before the work on it is done."""
        if os.environ.get("MPIDP_STAND_IN_DIRECT") == "crash":
            os.abort()  # as a library ends that takes the address for one of the host's
        if not self._memory.part(self._host).ready_for_host():
            raise Race("device memory is given away while a stream still works on it")
        return {
            "shape": self.shape, "typestr": self.dtype.str, "version": 3, "strides": None,
            "data": (self._host.ctypes.data, False),
        }  # fmt: skip

    def get(self, stream=None, order="C", out=None, blocking=True):
        stream = stream or get_current_stream()
        number = stream.work(reads=(self._memory.part(self._host),))
        content = np.array(self._host, order="C")
        if out is None:
            out = np.empty_like(content)
        if not isinstance(out, np.ndarray) or out.shape != content.shape or out.dtype != content.dtype:
            raise TypeError(f"out must be a host array of {content.shape} {content.dtype}")
        out.reshape(-1).view(np.uint8)[...] = 0xFF
        stream.copies.append((number, out, content, True))
        if blocking:
            stream.reach(number)
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray) or arr.shape != self.shape or arr.dtype != self.dtype:
            raise TypeError("set takes a host array of the same shape and type")
        stream = stream or get_current_stream()
        number = stream.work(self._memory.part(self._host))
        self._host[...] = arr
        stream.copies.append((number, arr, arr.copy(), False))

    # Views

    def __getitem__(self, key):
        require_of_device(key)
        if isinstance(unwrapped(key), np.ndarray) and unwrapped(key).dtype == bool:
            raise TypeError("an index of booleans waits for the device to know how many there are")

        def run():
            result = self._host[unwrapped(key)]
            if isinstance(result, np.ndarray):
                return result
            return self._host[(*unwrapped(key), ...) if isinstance(key, tuple) else (unwrapped(key), ...)]

        result = run()
        if not result.size or np.may_share_memory(result, self._host):
            return self._like(result)  # a view, which is no work
        return given([self, key], run, self._like)

    def __setitem__(self, key, value):
        require_of_device(key)
        place = self._host[unwrapped(key)]
        shares = isinstance(place, np.ndarray) and (not place.size or np.may_share_memory(place, self._host))
        written = place if shares else self._host
        writes = [ndarray(None, _host=written, _memory=self._memory)]
        if isinstance(value, np.ndarray):
            if value.ndim:
                raise TypeError("a host array into a device array: use set(), or asarray() first")
            value = value[()]
        perform(writes, lambda: self._host.__setitem__(unwrapped(key), unwrapped(value)), [key, value])

    def _like(self, host):
        if isinstance(host, np.ndarray) and np.may_share_memory(host, self._host):
            return ndarray(None, _host=host, _memory=self._memory)
        return wrapped(host)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name):
        if name not in METHODS or name in TO_HOST:
            raise AttributeError(f"CuPy's array has no {name} that could be used without a copy to the host")
        found = getattr(self._host, name)
        if isinstance(found, np.ndarray):
            return self._like(found)
        return self._method(name, found) if callable(found) else found

    def _method(self, name, bound):
        def call(*args, **kwargs):
            if name in ("sum", "prod", "max", "min", "mean", "any", "all") and "where" in kwargs:
                raise TypeError(f"CuPy's {name} takes no where")
            out = kwargs.get("out")

            def run():
                return bound(*unwrapped(args), **unwrapped(kwargs))

            if out is not None or name in IN_PLACE:
                perform([out, *([self] if name in IN_PLACE else [])], run, [self, args])
                return out
            return given([self, args], run, self._like)

        return call


def _operator(name):
    def operate(self, *others):
        if any(isinstance(other, np.ndarray | list | tuple) for other in others):
            raise TypeError(f"{name} of a device array and a host array")

        def run():
            return getattr(self._host, name)(*unwrapped(others))

        if name.startswith("__i") and name != "__invert__":
            return NotImplemented if perform([self], run, [others]) is NotImplemented else self
        return given([self, others], run, self._like)

    return operate


for _name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        setattr(ndarray, _form, _operator(_form))
for _name in "lt le gt ge eq ne neg pos abs invert".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def worked() -> Memory:
    """New memory that the current stream has just written."""
    memory, stream = Memory(), get_current_stream()
    if stream.recorded is None:
        stream.work(memory)
    return memory


def perform(writes, run, reads=()):
    """Do it on the current stream, to these arrays; where that is captured, at every launch of the graph."""
    recorded = get_current_stream().recorded
    if recorded is not None:
        recorded.append(lambda: perform(writes, run, reads))
        return None
    touch(writes, reads)
    return run()


def given(reads, run, wrap):
    """What `run` gives, as a device array; where the stream is captured, memory into which the graph writes it."""
    found = run()
    if found is None or found is NotImplemented:
        return found
    result = wrap(found)
    if isinstance(result, ndarray) and any(
        np.may_share_memory(result._host, one._host) for one in flat([reads]) if isinstance(one, ndarray)
    ):
        return result  # a view, which is no work
    if get_current_stream().recorded is None:
        touch([], reads)
        return result
    if not isinstance(result, ndarray):
        raise RuntimeError("cudaErrorStreamCaptureUnsupported: what the stand-in cannot capture")
    perform([result], lambda: result._host.__setitem__(..., run()), reads)
    result._host.reshape(-1).view(np.uint8)[...] = 0xFF  # nothing is computed yet
    return result


def aligned(host: np.ndarray) -> np.ndarray:
    """This array, where new device memory begins: at a multiple of 512 bytes."""
    if host.ctypes.data % ALIGNMENT == 0 or not host.size:
        return host
    memory = np.empty(host.nbytes + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
    copy = memory[begin : begin + host.nbytes].view(host.dtype).reshape(host.shape, order=order)
    copy[...] = host
    return copy


def require_of_device(key) -> None:
    """An index that lies on the host is copied to the device each time it is used."""
    for one in key if isinstance(key, tuple) else (key,):
        if isinstance(one, np.ndarray | list) and np.ndim(one):
            raise TypeError("an index on the host: asarray() it first")


def unwrapped(value):
    """The same with host arrays in place of device arrays."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, tuple | list):
        return type(value)(unwrapped(v) for v in value)
    if isinstance(value, dict):
        return {k: unwrapped(v) for k, v in value.items()}
    return value


def memories(value):
    if isinstance(value, ndarray):
        yield value._memory.part(value._host)
    elif isinstance(value, tuple | list):
        for v in value:
            yield from memories(v)
    elif isinstance(value, dict):
        yield from memories(list(value.values()))


def touch(values, reads=()) -> None:
    """Work of the current stream on all these arrays, and on others that it only reads."""
    writes = dict.fromkeys(memories(values))
    reads = tuple(m for m in dict.fromkeys(memories(list(reads))) if m not in writes)
    get_current_stream().work(*writes, reads=reads)


def wrapped(result):
    if isinstance(result, tuple):
        return tuple(wrapped(r) for r in result)
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(None, _host=aligned(np.asarray(result)), _memory=worked())
    return result


def flat(value):
    if isinstance(value, tuple | list):
        for v in value:
            yield from flat(v)
    elif isinstance(value, dict):
        yield from flat(list(value.values()))
    else:
        yield value
