"""cuBLAS's product, by NumPy: what it takes, and nothing else."""

import ctypes
from functools import cache

import numpy as np
from cupy._array import ndarray, perform
from cupy.address import Address
from cupy.compiling import FLAGS, built
from cupy.streams import get_current_stream

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_GEMM_DEFAULT = -1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F = 68, 77, 70
HALF, SINGLE, DOUBLE, BFLOAT16 = 2, 0, 1, 14  # cudaDataType
STORED = {HALF: np.float16, SINGLE: np.float32, DOUBLE: np.float64, BFLOAT16: np.uint16}
TAKEN = {
    CUBLAS_COMPUTE_32F: {
        (BFLOAT16, BFLOAT16),
        (BFLOAT16, SINGLE),
        (HALF, HALF),
        (HALF, SINGLE),
        (SINGLE, SINGLE),
    },
    CUBLAS_COMPUTE_32F_FAST_TF32: {(SINGLE, SINGLE)},
    CUBLAS_COMPUTE_64F: {(DOUBLE, DOUBLE)},
}  # (operands, result) by the type of the sums
HANDLE = 0x5EED


class CUBLASError(RuntimeError):
    pass


def gemmEx(*arguments):
    """As CuPy calls it."""
    if get_current_stream().recorded is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    product(*arguments)


def product(
    handle,
    transa,
    transb,
    m,
    n,
    k,
    alpha,
    A,
    Atype,
    lda,
    B,
    Btype,
    ldb,
    beta,
    C,
    Ctype,
    ldc,
    computeType,
    algo,
):
    """C = alpha op(A) op(B) + beta C, all in columns, as the library does it, captured or not."""
    if handle != HANDLE or min(m, n, k) < 1 or algo != CUBLAS_GEMM_DEFAULT:
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
    if Atype != Btype or (Atype, Ctype) not in TAKEN[computeType]:
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    a, b = matrix(A, Atype, lda, transa, m, k), matrix(B, Btype, ldb, transb, k, n)
    c = matrix(C, Ctype, ldc, CUBLAS_OP_N, m, n)
    sums = np.float64 if computeType == CUBLAS_COMPUTE_64F else np.float32
    one, zero = (np.ctypeslib.as_array(as_pointer(at, sums), (1,))[0] for at in (alpha, beta))
    a_array, b_array, c_array = (
        ndarray(None, _host=m, _memory=at.memory) for m, at in ((a, A), (b, B), (c, C))
    )

    def run():
        total = one * (as_numbers(a, Atype, computeType) @ as_numbers(b, Btype, computeType))
        if zero:
            total += zero * as_numbers(c, Ctype, computeType)
        c[...] = rounded_to_bfloat16(total) if Ctype == BFLOAT16 else total

    perform([c_array], run, [a_array, b_array])


NUMBER, POINTER = ctypes.c_int, ctypes.c_void_p
GEMM = [POINTER, *[NUMBER] * 5, POINTER, POINTER, NUMBER, NUMBER, POINTER, NUMBER, NUMBER,
        POINTER, POINTER, NUMBER, NUMBER, NUMBER, NUMBER]  # fmt: skip
SOURCE = """
#define MPIDP_API extern "C" __attribute__((visibility("default"))) int
typedef void *P;
#define TAKEN P a, int b, int c, int d, int e, int f, P g, P h, int i, int j, P k, int l, int m, \\
    P n, P o, int p, int q, int r, int s
static int (*product)(TAKEN);
MPIDP_API mpidp_product(int (*done)(TAKEN)) { product = done; return 0; }
MPIDP_API cublasSetStream_v2(P, P) { return 0; }
MPIDP_API cublasSetWorkspace_v2(P, P at, unsigned long size) { return (unsigned long)at % 256 ? 7 : 0; }
MPIDP_API cublasGemmEx(TAKEN) { return product(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s); }
"""


@ctypes.CFUNCTYPE(NUMBER, *GEMM)
def answered(*arguments):
    """The product that the library is asked for by plain numbers; its status."""
    values = list(arguments)
    for place in (7, 10, 14):
        values[place] = Address.known(values[place])
    try:
        product(*values)
    except CUBLASError:
        return 7
    return 0


@cache
def loaded() -> ctypes.CDLL:
    """The library itself, for those who call it past CuPy."""
    library = ctypes.CDLL(str(built(SOURCE, FLAGS, ".libcublas.so", ("-shared",))))
    library.mpidp_product(answered)
    return library


def as_pointer(address, dtype):
    return ctypes.cast(address, ctypes.POINTER(np.ctypeslib.as_ctypes_type(dtype)))


def matrix(address, kind, step, order, rows, columns):
    """The operand as NumPy sees it. Raises CUBLASError where it is not inside one allocation."""
    size = np.dtype(STORED[kind]).itemsize
    down, across = (rows, columns) if order == CUBLAS_OP_N else (columns, rows)
    length = ((across - 1) * step + down) * size
    if step < down or address % size or not address.begin <= address <= address + length <= address.end:
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE, or memory that is not this array's")
    buffer = (ctypes.c_char * length).from_address(address)
    found = np.ndarray((down, across), STORED[kind], buffer, strides=(size, step * size))
    return found if order == CUBLAS_OP_N else found.T


def as_numbers(x, kind, sums):
    """Stored numbers, in the type of the sums; under TF32 without the bits that it drops."""
    if kind == BFLOAT16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    x = x.astype(np.float64 if kind == DOUBLE else np.float32)
    if sums == CUBLAS_COMPUTE_32F_FAST_TF32:
        return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)
    return x


def rounded_to_bfloat16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)
