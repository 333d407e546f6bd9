"""CUDA sources by the host's compiler: a kernel is a loop over blocks of one thread."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import numpy as np
from cupy._array import ndarray, touch, worked

PRELUDE = r"""
#include <cmath>
#include <cstdint>
using namespace std;
struct Dim { unsigned x; };
static thread_local Dim blockIdx, threadIdx, blockDim, gridDim;
#define __device__ static
#define __global__
#define __shared__ static thread_local
static void __syncthreads() {}
extern "C" void set_block(unsigned index, unsigned count) {
    blockIdx.x = index; gridDim.x = count; blockDim.x = 1; threadIdx.x = 0;
}
"""
C = {
    "float32": "float",
    "float64": "double",
    "int32": "int32_t",
    "int64": "long long",
    "uint8": "uint8_t",
    "bool": "bool",
}
SCALARS = {
    np.dtype(t): c
    for t, c in (
        ("f4", ctypes.c_float), ("f8", ctypes.c_double), ("i4", ctypes.c_int32), ("u4", ctypes.c_uint32),
        ("i8", ctypes.c_int64), ("u8", ctypes.c_uint64), ("?", ctypes.c_bool),
    )
}  # fmt: skip


@cache
def compiled(source: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The source as a library, kept for all processes of this user."""
    folder = Path(tempfile.gettempdir()) / f"mpidp-stand-in-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{hashlib.sha256(repr((PRELUDE, source, options)).encode()).hexdigest()[:24]}.so"
    if not path.exists():
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise RuntimeError("the stand-in for CuPy needs a C++ compiler")
        text = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.cpp")
        library = text.with_suffix(".so")
        text.write_text(PRELUDE + source)
        command = [compiler, "-shared", "-fPIC", "-O1", *options, "-o", str(library), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        with contextlib.suppress(FileNotFoundError):
            text.unlink()
        if done.returncode:
            raise RuntimeError(done.stderr)
        library.rename(path)
    return ctypes.CDLL(str(path))


def argument(value):
    if isinstance(value, ndarray):
        if not value._host.flags.c_contiguous:
            raise TypeError("a kernel takes its arrays to be contiguous")
        return ctypes.c_void_p(value._host.ctypes.data)
    if isinstance(value, np.ndarray):
        raise TypeError("a kernel got a host array")
    if isinstance(value, np.generic):
        return SCALARS[value.dtype](value.item())
    raise TypeError(f"a raw kernel's scalars need a type: got {value!r}")


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...] = (), **_):
        self.library = compiled(code, tuple(o for o in options if o.startswith("-D")))

    def get_function(self, name: str):
        run = getattr(self.library, name)

        def launch(grid, block, arguments, shared_mem=0, stream=None):
            if not 0 < grid[0] < 2**31 or not 0 < block[0] <= 1024:
                raise ValueError(f"a grid of {grid} blocks of {block} threads")
            touch(list(arguments))
            converted = [argument(a) for a in arguments]
            for index in range(grid[0]):
                self.library.set_block(index, grid[0])
                run(*converted)

        return launch


def declared(text: str) -> list[tuple[bool, str, str]]:
    """(raw, type, name) of each parameter."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        words = part.split()
        found.append((words[0] == "raw", words[-2], words[-1]))
    return found


class ElementwiseKernel:
    def __init__(self, in_params, out_params, operation, name="kernel", preamble="", **_):
        self.inputs, self.outputs = declared(in_params), declared(out_params)
        self.operation, self.name, self.preamble = operation, name, preamble

    def __call__(self, *args):
        parameters = self.inputs + self.outputs
        if len(args) != len(parameters):
            raise TypeError(
                f"{self.name} takes {len(parameters)} arguments, got {len(args)}: outputs are given here"
            )
        types = {}
        for (_, type_, _), value in zip(parameters, args, strict=True):
            if (
                isinstance(value, ndarray)
                and len(type_) == 1
                and types.setdefault(type_, value.dtype) != value.dtype
            ):
                raise TypeError(f"{self.name}: {type_} is {types[type_]} and {value.dtype}")
        size = args[-1].size
        head, body, converted = ["long long size"], [], [ctypes.c_longlong(size)]
        for (raw, type_, name), value in zip(parameters, args, strict=True):
            c = C[np.dtype(types.get(type_, type_)).name]
            output = (raw, type_, name) in self.outputs
            if isinstance(value, ndarray):
                if not raw and value.size != size:
                    raise TypeError(f"{self.name}: arrays of {value.size} and {size} elements")
                head.append(f"{c}* {name if raw else name + '_at'}")
                if not raw:
                    body.append(f"{c if output else 'const ' + c} &{name} = {name}_at[i];")
                converted.append(argument(value))
            else:
                head.append(f"{c} {name}")
                converted.append(SCALARS[np.dtype(types.get(type_, type_))](value))
        names = "".join(f"typedef {C[dtype.name]} {letter};\n" for letter, dtype in types.items())
        source = (
            f"{names}{self.preamble}\n"
            f'extern "C" void {self.name}({", ".join(head)}) {{\n'
            f"for (long long i = 0; i < size; ++i) {{ {' '.join(body)}\n{self.operation};\n}} }}\n"
        )
        touch(list(args))
        getattr(compiled(source, ()), self.name)(*converted)
        return args[-1]


class ReductionKernel:
    def __init__(
        self, in_params, out_params, map_expr, reduce_expr, post_map_expr, identity, name="sum", **_
    ):
        self.input, self.output = declared(in_params)[0], declared(out_params)[0]
        self.parts = map_expr, reduce_expr, post_map_expr, identity
        self.name = name

    def __call__(self, array):
        (_, letter, x), (_, result, y) = self.input, self.output
        map_, reduce_, post, identity = self.parts
        element, total = C[array.dtype.name], C[np.dtype(result).name]
        source = (
            f"typedef {element} {letter};\n"
            f'extern "C" void {self.name}(const {element}* at, long long size, {total}* out) {{\n'
            f"{total} a = {identity};\n"
            f"for (long long i = 0; i < size; ++i) {{ const {element} {x} = at[i]; {total} b = {map_};\n"
            f"a = {reduce_}; }}\n{total} &{y} = *out; {post};\n}}\n"
        )
        touch([array])
        out = np.zeros((), result)
        getattr(compiled(source, ()), self.name)(
            argument(array), ctypes.c_longlong(array.size), ctypes.c_void_p(out.ctypes.data)
        )
        return ndarray(None, _host=out, _memory=worked())
