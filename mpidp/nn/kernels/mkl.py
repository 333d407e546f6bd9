"""Dense products by Intel's oneMKL, through ctypes on the `libmkl_rt` of the `mkl` wheel (or of conda)."""

import ctypes
import os
import site
import sys
from pathlib import Path

import numpy as np

from mpidp.nn.kernels.products import PLAIN, Products, layout

ROW_MAJOR = 101  # CBLAS's name
SEQUENTIAL = 1  # of MKL's threading layers
PACKED = np.dtype(np.uint16)  # what holds bfloat16
WORTH_IT = 1 << 22
"""Multiplications from which on MKL is faster in spite of a call's 8 µs: with 2^21 it is as fast as NumPy's OpenBLAS,
with 2^18 a third as fast."""


def find() -> Path | None:
    """Where this environment has libmkl_rt; None where the extra `mkl` is not installed."""
    for prefix in (sys.prefix, site.getuserbase()):
        found = sorted(Path(prefix, "lib").glob("libmkl_rt.so*"))
        if found:
            return found[-1]
    return None


def version() -> str:
    """The version of the wheel, "" where another package brought the library."""
    from importlib import metadata

    try:
        return metadata.version("mkl")
    except metadata.PackageNotFoundError:
        return ""


def matrix_units() -> bool:
    """Has this processor units that multiply tiles of bfloat16 (AMX)? Without, MKL is faster in float32."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return False


class MklProducts(Products):
    """Products of float32, float64 and packed bfloat16 by MKL; what it cannot do, or does no faster, by NumPy.

    Batches are NumPy's too: with MKL's batched product attention's core ran at 0.95 to 1.05 of its speed.
    Raises OSError or AttributeError where the library cannot be loaded, or is too old to know bfloat16.
    """

    blas = "mkl"
    about = "products by mkl"

    def __init__(self, path: Path, threads: int):
        super().__init__(np)
        library = ctypes.CDLL(os.fspath(path))
        if threads == 1:
            library.MKL_Set_Threading_Layer(SEQUENTIAL)  # to be said before any other call
        library.MKL_Set_Num_Threads(threads)
        integer, pointer = ctypes.c_int, ctypes.c_void_p
        self.gemm = {}
        for dtype, name, scalar in (
            (np.float32, "sgemm", ctypes.c_float),
            (np.float64, "dgemm", ctypes.c_double),
            (PACKED, "gemm_bf16bf16f32", ctypes.c_float),
        ):
            gemm = self.gemm[np.dtype(dtype)] = library["cblas_" + name]
            matrix = (pointer, integer)
            gemm.argtypes = (*[integer] * 6, scalar, *matrix, *matrix, scalar, *matrix)
            gemm.restype = None

    def matmul(self, a, b, out):
        """As the plain one's. Operands of 16 bits are bfloat16, and out is float32."""
        count = out.size * a.shape[-1]
        if a.dtype == PACKED:
            if count == 0:
                out[...] = 0
            elif not self._fits(a, b, out, np.float32):
                raise ValueError(
                    f"bfloat16 products of {a.shape}, {b.shape} to {out.shape}: no whole matrices"
                )
            else:
                self._multiply(a, b, out)
        elif count < WORTH_IT or not self._fits(a, b, out, a.dtype):
            np.matmul(a, b, out=out)
        else:
            self._multiply(a, b, out)

    def _fits(self, a, b, out, result) -> bool:
        return (
            a.ndim == b.ndim == out.ndim == 2
            and a.dtype in self.gemm
            and (b.dtype, out.dtype) == (a.dtype, result)
            and (a.shape[1], a.shape[0], b.shape[1]) == (b.shape[0], *out.shape)
            and layout(out)[0] == PLAIN
            and layout(a)[0] != 0 != layout(b)[0]
        )

    def _multiply(self, a, b, out) -> None:
        (a_order, a_step), (b_order, b_step), (_, step) = layout(a), layout(b), layout(out)
        (m, n), k = out.shape, a.shape[1]
        at = a.ctypes.data, b.ctypes.data, out.ctypes.data
        gemm = self.gemm[a.dtype]
        gemm(ROW_MAJOR, a_order, b_order, m, n, k, 1.0, at[0], a_step, at[1], b_step, 0.0, at[2], step)
