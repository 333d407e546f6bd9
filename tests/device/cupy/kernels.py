"""Kernels: raw ones run as blocks of threads (`blocks.cpp`), elementwise ones and reductions as loops."""

import ctypes
import re
import threading

import numpy as np
from cupy._array import ndarray, perform, worked
from cupy.compiling import library

C = {
    "float32": "float",
    "float64": "double",
    "int32": "int32_t",
    "int64": "long long",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "unsigned long long",
    "int8": "int8_t",
    "int16": "int16_t",
    "bool": "bool",
}
SCALARS = {
    np.dtype(t): c
    for t, c in (
        ("f4", ctypes.c_float), ("f8", ctypes.c_double), ("i4", ctypes.c_int32), ("u4", ctypes.c_uint32),
        ("i8", ctypes.c_int64), ("u8", ctypes.c_uint64), ("?", ctypes.c_bool),
        ("u1", ctypes.c_uint8), ("u2", ctypes.c_uint16),
    )
}  # fmt: skip


LAUNCHING = threading.RLock()  # a library has one set of threads and of shared memory
COMPARED: set[tuple] = set()  # launches that were made in both orders
LARGEST_BLOCK, LARGEST_GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)
SHARED, MOST_SHARED = 48 << 10, 163 << 10
"""Bytes of dynamic shared memory that a kernel gets, and that it may ask for (compute capability 8.0)."""


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
        self.code = code
        self.library = library(code, tuple(o for o in options if o.startswith("-D")))

    def get_function(self, name: str) -> "Function":
        if not hasattr(self.library, f"mpidp_run_{name}"):
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return Function(self, name)


class Function:
    """A kernel to be launched.

    The first launch of each shape is made twice, the second time with blocks and threads in the opposite order, and
    both must leave the same bits: where they do not, threads race (or add with atomics, which is allowed to differ in
    the last bits). Not where an argument is a bare address, since what lies behind it cannot be put back.
    """

    def __init__(self, module: RawModule, name: str):
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = SHARED
        found = getattr(module.library, f"mpidp_sizes_{name}")
        found.restype = ctypes.POINTER(ctypes.c_int)
        self.sizes = []
        for size in found():
            if not size:
                break
            self.sizes.append(size)

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes" and not 0 <= value <= MOST_SHARED:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {value} bytes of shared memory")
        super().__setattr__(name, value)

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = ((*size, 1, 1)[:3] for size in (grid, block))
        threads = block[0] * block[1] * block[2]
        fits = all(
            0 < n <= most for n, most in zip((*grid, *block), (*LARGEST_GRID, *LARGEST_BLOCK), strict=True)
        )
        if not fits or threads > 1024:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: a grid of {grid} blocks of {block} threads")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise RuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of shared memory, and "
                f"max_dynamic_shared_size_bytes is {self.max_dynamic_shared_size_bytes}"
            )
        values = [argument(a) for a in args]
        if [ctypes.sizeof(v) for v in values] != self.sizes:
            given = [ctypes.sizeof(v) for v in values]
            raise TypeError(f"{self.name} takes arguments of {self.sizes} bytes, and got {given}")
        writes, reads = used(self.module.code, self.name, args)
        perform(writes, lambda: self.locked(grid, block, args, values, shared_mem), reads)

    def locked(self, *launch):
        with LAUNCHING:
            self.twice(*launch)

    def twice(self, grid, block, args, values, shared_mem):
        arrays = [a._host for a in args if isinstance(a, ndarray)]
        key = (
            self.module.library._name,
            self.name,
            grid,
            block,
            shared_mem,
            *((a.shape, a.dtype.str) for a in arrays),
        )
        bare = any(a.dtype == np.uint64 and (isinstance(a, ndarray) or a) for a in args)
        if bare or key in COMPARED:
            self.once(grid, block, values, shared_mem, False)
            return
        before = [a.copy() for a in arrays]
        self.once(grid, block, values, shared_mem, True)
        reversed_ = [a.copy() for a in arrays]
        for array, content in zip(arrays, before, strict=True):
            array[...] = content
        self.once(grid, block, values, shared_mem, False)
        for array, other in zip(arrays, reversed_, strict=True):
            same = array.tobytes() == other.tobytes()
            if not same and "atomicAdd" in self.module.code:
                same = np.allclose(array, other, 1e-4, 1e-6, equal_nan=True)
            if not same:
                raise RuntimeError(f"{self.name}: what it leaves depends on which thread is first")
        COMPARED.add(key)

    def once(self, grid, block, values, shared_mem, reversed_):
        library, three = self.module.library, ctypes.c_uint * 3
        library.mpidp_launch.restype = ctypes.c_char_p
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        wrong = library.mpidp_launch(
            getattr(library, f"mpidp_run_{self.name}"),
            places,
            three(*grid),
            three(*block),
            ctypes.c_size_t(shared_mem),
            reversed_,
        )
        if wrong:
            raise RuntimeError(f"{self.name}: {wrong.decode()}")


class RawKernel:
    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), **_):
        self.function = RawModule(code=code, options=options).get_function(name)

    def __call__(self, grid, block, args, *, shared_mem=0):
        self.function(grid, block, args, shared_mem=shared_mem)

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        self.function.max_dynamic_shared_size_bytes = value


def used(code: str, name: str, arguments) -> tuple[list, list]:
    """Of a kernel's arguments, those that it may write to, and those that it declares to be constant."""
    found = re.search(rf"__global__[^;{{}}]*\b{name}\s*\(([^)]*)\)\s*{{", code)
    constant = ["const" in one.split("*")[0].split() for one in found.group(1).split(",")] if found else []
    if len(constant) != len(arguments):
        return list(arguments), []  # who can tell?
    reads = [a for a, reads in zip(arguments, constant, strict=True) if reads]
    return [a for a, reads in zip(arguments, constant, strict=True) if not reads], reads


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
            f"MPIDP_EXPORT void {self.name}({', '.join(head)}) {{\n"
            f"for (long long i = 0; i < size; ++i) {{ {' '.join(body)}\n{self.operation};\n}} }}\n"
        )
        inputs, outputs = args[: len(self.inputs)], args[len(self.inputs) :]
        perform(outputs, lambda: getattr(library(source), self.name)(*converted), inputs)
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
            f"MPIDP_EXPORT void {self.name}(const {element}* at, long long size, {total}* out) {{\n"
            f"{total} a = {identity};\n"
            f"for (long long i = 0; i < size; ++i) {{ const {element} {x} = at[i]; {total} b = {map_};\n"
            f"a = {reduce_}; }}\n{total} &{y} = *out; {post};\n}}\n"
        )
        out = ndarray(None, _host=np.zeros((), result), _memory=worked())
        values = argument(array), ctypes.c_longlong(array.size), ctypes.c_void_p(out._host.ctypes.data)
        perform([out], lambda: getattr(library(source), self.name)(*values), [array])
        return out
