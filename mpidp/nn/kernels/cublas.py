"""Dense products by cuBLAS on a GPU, called as it is: every operand where it lies, every result where it belongs.

CuPy's own `matmul` copies operands that are not whole arrays, allocates, and takes results of the operands' type alone.
A result (m, n) in rows is cuBLAS's (n, m) in columns: outᵀ = bᵀ aᵀ. So operands change places, and what lies
transposed is marked as that. Sums are made in float32 (float64 for float64), whatever the operands are.
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from mpidp.arrays import Array, zeros
from mpidp.nn.kernels.products import PLAIN, TRANSPOSED, Products, layout

WORKSPACES = {90: 32 << 20, 0: 4 << 20}
"""Bytes, from this compute capability (times ten) on: cuBLAS's own defaults (its documentation, cublasSetWorkspace), so
that it chooses the same algorithms for products that are captured."""
ROW = 128
"""Bytes of which the rows of a wide result are made multiples: tensor cores are fed by loads that must be aligned, and
50257 columns of 16 bits are not."""


class CublasProducts(Products):
    """Products of float32 and float64, and of operands that are rounded to a 16-bit type.

    operands: bfloat16 or float16, to which operands are rounded (None: they stay as they are); tf32: products of
    float32 on the tensor cores, which drop 13 of the operands' 23 bits behind the point.
    """

    blas = "cublas"

    def __init__(self, xp: Any, where: str, operands: str | None = None, tf32: bool = False):
        super().__init__(xp)
        self.tf32 = tf32
        from cupy.cuda import cublas, device, runtime

        from mpidp.nn.kernels.cupy_launch import narrowed

        self.cublas, self.handle, self.narrowed = cublas, device.get_cublas_handle, narrowed
        self.gemm = cublas.gemmEx
        if operands is not None:
            self.narrow = np.dtype({"bfloat16": np.uint16, "float16": np.float16}[operands])
        self.about = f"{operands or ('tf32' if tf32 else '')} products by cuBLAS on {where}".lstrip()
        sixteen = runtime.CUDA_R_16BF if operands == "bfloat16" else runtime.CUDA_R_16F
        single = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F
        self.types = {np.dtype(np.float32): runtime.CUDA_R_32F, np.dtype(np.float64): runtime.CUDA_R_64F}
        self.sums = {np.dtype(np.float32): single, np.dtype(np.float64): cublas.CUBLAS_COMPUTE_64F}
        if self.narrow is not None:
            self.types[self.narrow], self.sums[self.narrow] = sixteen, cublas.CUBLAS_COMPUTE_32F
        # The factors of the sum and of what `out` held, on the host: cuBLAS reads them when it is called.
        self.factors = {dtype: np.array([1, 0], dtype) for dtype in (np.dtype("f4"), np.dtype("f8"))}
        self.orders = {PLAIN: cublas.CUBLAS_OP_N, TRANSPOSED: cublas.CUBLAS_OP_T}

    def operands(self, params: Array) -> Array:
        return params if self.narrow is None else zeros(self.xp, params.size, self.narrow)

    def memory(self, arena, shape, tag=None):
        if self.narrow is None:
            return None
        return (
            arena.scratch(f"products.{tag}", shape, self.narrow) if tag else arena.empty(shape, self.narrow)
        )

    def take(self, x, memory):
        if self.narrow is None or x.dtype == self.narrow:
            return x
        self.narrowed(x, memory)
        return memory

    def wide(self, columns: int) -> int:
        if self.narrow is None:
            return columns
        step = ROW // self.narrow.itemsize
        return -(-columns // step) * step

    @contextlib.contextmanager
    def capturable(self, stream):
        """CuPy's calls of cuBLAS refuse to be captured, cuBLAS does not: inside it is called past CuPy."""
        able = int(self.xp.cuda.Device().compute_capability)
        size = next(size for least, size in WORKSPACES.items() if able >= least)
        self.gemm = past_cupy(self.handle(), stream, self.xp.empty(size, np.uint8))
        try:
            yield
        finally:
            self.gemm = self.cublas.gemmEx  # which sets the stream itself

    def matmul(self, a, b, out):
        """out = a b for matrices whose rows, or columns, are contiguous; `out` of the operands' type, or wider."""
        (m, n), k = out.shape, a.shape[1]
        if a.dtype != b.dtype or (a.shape[0], b.shape) != (m, (k, n)):
            raise ValueError(f"product of {a.shape} {a.dtype}, {b.shape} {b.dtype} to {out.shape}")
        if out.size == 0:
            return
        if k == 0:
            out[...] = 0
            return
        (a_order, a_step), (b_order, b_step), (order, step) = layout(a), layout(b), layout(out)
        if order != PLAIN or not (a_order and b_order):
            raise ValueError(f"product of {a.shape}, {b.shape} to {out.shape}: no whole rows or columns")
        one = self.factors[np.dtype("f8" if a.dtype.itemsize == 8 else "f4")].ctypes.data
        zero = one + (8 if a.dtype.itemsize == 8 else 4)
        kind = self.types[a.dtype]
        self.gemm(
            self.handle(), self.orders[b_order], self.orders[a_order], n, m, k,
            one, b.data.ptr, kind, b_step, a.data.ptr, kind, a_step,
            zero, out.data.ptr, self.types[out.dtype], step, self.sums[a.dtype], self.cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


def past_cupy(handle: int, stream: Any, workspace: Array) -> Callable[..., None]:
    """cublasGemmEx of the library that CuPy has loaded, on this stream and in this workspace, which the result keeps.

    cuBLAS would else take its workspace for each captured product anew (cuBLAS documentation, "CUDA Graphs Support").
    """
    with open("/proc/self/maps") as file:
        paths = {line.split(maxsplit=5)[-1].strip() for line in file if "libcublas.so" in line}
    if not paths:
        raise RuntimeError("CuPy's cuBLAS is not among the libraries of this process")
    library = ctypes.CDLL(paths.pop())
    number, pointer = ctypes.c_int, ctypes.c_void_p
    kinds = [pointer, *[number] * 5, pointer, pointer, number, number, pointer, number, number,
             pointer, pointer, number, number, number, number]  # fmt: skip

    def checked(name: str, types: list[Any], *arguments: Any) -> None:
        function = getattr(library, name)
        function.argtypes = types
        if status := function(*arguments):
            raise RuntimeError(f"{name}: cuBLAS status {status}")

    checked("cublasSetStream_v2", [pointer, pointer], handle, stream.ptr)
    checked(
        "cublasSetWorkspace_v2",
        [pointer, pointer, ctypes.c_size_t],
        handle,
        workspace.data.ptr,
        workspace.nbytes,
    )

    def gemm(*arguments: Any, kept: Array = workspace) -> None:
        checked("cublasGemmEx", kinds, *arguments)

    return gemm
