"""What `--dtype` and `--blas` mean: the type of the flat vectors, and who multiplies matrices."""

from typing import Any

import numpy as np

from mpidp import machine
from mpidp.errors import UserError
from mpidp.nn.kernels import mkl
from mpidp.nn.kernels.products import Bfloat16, Products

AUTO, NUMPY, MKL = "auto", "numpy", "mkl"
BFLOAT16 = "bfloat16"


def vectors_dtype(dtype: str) -> np.dtype:
    """The type of parameters, gradients, messages and files: under bfloat16, which is of operands alone, float32."""
    return np.dtype(np.float32 if dtype == BFLOAT16 else dtype)


def products(blas: str, dtype: str, threads: int | None = None) -> Products:
    """Who multiplies on this machine, with so many threads (default: as many as NumPy's BLAS has).

    Raises UserError where MKL is asked for and cannot be had.
    """
    inner = Products() if blas == NUMPY else with_mkl(blas, threads)
    if dtype != BFLOAT16:
        return inner
    return Bfloat16(inner, packed=inner.blas == MKL and mkl.matrix_units())


def with_mkl(blas: str, threads: int | None) -> Products:
    """MKL, or under auto NumPy where there is none. Raises UserError."""
    path = mkl.find()
    if path is None:
        if blas == AUTO:
            return Products()
        raise UserError(
            f"--blas {MKL}: no libmkl_rt in this environment: pip install 'mpidp[mkl]', or take --blas {NUMPY}"
        )
    if threads is None:
        ours = machine.blas()
        threads = ours.threads if ours else 1
    try:
        return mkl.MklProducts(path, threads)
    except (OSError, AttributeError) as error:
        raise UserError(f"--blas {blas}: {path} cannot be used ({error}): take --blas {NUMPY}") from None


def recorded(options: dict[str, Any]) -> Products:
    """Who multiplies in a model read back: whoever did in its run, or NumPy where that is not to be had here."""
    blas = AUTO if options.get("blas") == MKL else NUMPY
    return products(blas, options["dtype"])
