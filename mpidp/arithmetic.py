"""What `--dtype` and `--blas` mean: the type of the flat vectors, and who multiplies matrices."""

import statistics
import time
from typing import Any

import numpy as np

from mpidp import machine
from mpidp.errors import UserError
from mpidp.nn.kernels import mkl
from mpidp.nn.kernels.products import Bfloat16, Float16, Products

AUTO, NUMPY, MKL = "auto", "numpy", "mkl"
BFLOAT16, FLOAT16, TF32 = "bfloat16", "float16", "tf32"
OF_OPERANDS = (BFLOAT16, FLOAT16, TF32)
"""Types of the operands of dense products alone; tf32 is of GPUs alone."""


def vectors_dtype(dtype: str) -> np.dtype:
    """The type of parameters, gradients, messages and files: float32 where `dtype` is of operands alone."""
    return np.dtype(np.float32 if dtype in OF_OPERANDS else dtype)


def products(blas: str, dtype: str, threads: int | None = None) -> Products:
    """Who multiplies on this machine, with so many threads (default: as many as NumPy's BLAS has).

    Raises UserError where MKL is asked for and cannot be had.
    """
    blas = faster(dtype, threads) if blas == AUTO else blas
    inner = Products() if blas == NUMPY else with_mkl(threads)
    if dtype == FLOAT16:
        return Float16(inner)
    if dtype != BFLOAT16:
        return inner
    return Bfloat16(inner, packed=inner.blas == MKL and mkl.matrix_units())


def faster(dtype: str, threads: int | None = None) -> str:
    """NUMPY or MKL: who multiplies faster here, found in a few ms; MKL for bfloat16 by matrix units, NumPy has none.

    Both take turns at a product of 512 x 512 matrices; the medians count, and NumPy is taken unless MKL gains 3 %.
    MKL is made for Intel's processors: on others OpenBLAS can be the faster one.
    """
    if mkl.find() is None:
        return NUMPY
    contestants = {NUMPY: Products(), MKL: with_mkl(threads)}
    if dtype == BFLOAT16 and mkl.matrix_units():
        return MKL
    a, b, out = np.full((3, 512, 512), 0.5, vectors_dtype(dtype))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(8):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant.matmul(a, b, out)
            if turn > 0:  # the first turn wakes them up
                times[name].append(time.perf_counter() - began)
    ours, theirs = (statistics.median(times[name]) for name in (NUMPY, MKL))
    return MKL if theirs < 0.97 * ours else NUMPY


def with_mkl(threads: int | None) -> Products:
    """MKL. Raises UserError where it cannot be had."""
    path = mkl.find()
    if path is None:
        raise UserError(
            f"--blas {MKL}: no libmkl_rt in this environment: pip install 'mpidp[mkl]', or take --blas {NUMPY}"
        )
    if threads is None:
        ours = machine.blas()
        threads = ours.threads if ours else 1
    try:
        return mkl.MklProducts(path, threads)
    except (OSError, AttributeError) as error:
        raise UserError(f"--blas {MKL}: {path} cannot be used ({error}): take --blas {NUMPY}") from None


def recorded(options: dict[str, Any]) -> Products:
    """Who multiplies in a model read back: whoever did in its run, or NumPy where that is not to be had here."""
    blas = MKL if options.get("blas") == MKL and mkl.find() is not None else NUMPY
    return products(blas, options["dtype"])
