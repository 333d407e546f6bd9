"""Dense products: who computes them, and in which type their operands are held.

A layer asks the arena's `products` for `memory` in `plan`, has each operand `take`n into it once, and hands what it got
to every product with that operand, transposed or not; in float32 and float64 an operand is the array itself. Parameters
are `take`n all together, once a batch, into what `operands` gave (`Model.bind`).
"""

import contextlib
from typing import Any

import numpy as np

from mpidp.arrays import Array, zeros

BLOCK = 65536  # elements rounded at a time: in and out stay in a core's second-level cache
HALF, ONE, SIXTEEN, UPPER = (np.array(word, np.uint32) for word in (0x7FFF, 1, 16, 0xFFFF0000))


class Products:
    """Products by the arrays' own module: NumPy with the BLAS that it carries, or CuPy."""

    blas = "numpy"
    about = "products by numpy"  # how a run speaks of it
    narrow: np.dtype | None = None
    """The 16-bit type in which layers may hand on what goes from one product to the next; None: the model's own type.
    (bfloat16 shows as uint16, NumPy having no such type.)"""
    tf32 = False  # float32 operands are rounded to 10 bits of fraction, for a GPU's tensor cores

    def __init__(self, xp: Any = np):
        self.xp = xp

    def operands(self, params: Array) -> Array:
        """What the flat vector of parameters is to be `take`n into, before layers multiply by parts of it."""
        return params

    def memory(self, arena, shape: tuple[int, ...], tag: str | None = None) -> Array | None:
        """What an operand of this shape is to be `take`n into: the asker's own, or shared by all who say this tag."""
        return None

    def wide(self, columns: int) -> int:
        """Of how many columns memory for rows of so many should be, so that each row begins where it is best."""
        return columns

    def take(self, x: Array, memory: Array | None) -> Array:
        """`x` as `matmul` wants its operands."""
        return x

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """out = a b, as NumPy's matmul; operands that were not `take`n are multiplied in their own type."""
        self.xp.matmul(a, b, out=out)

    def capturable(self, stream: Any) -> contextlib.AbstractContextManager:
        """Inside, products may be captured on this stream of a device as part of a CUDA graph."""
        return contextlib.nullcontext()


class Float16(Products):
    """Operands rounded to float16 (IEEE binary16), to the nearest and ties to even; `inner` multiplies in float32.

    They are held in float32, where products of them are exact. What is beyond 65504 becomes infinite, and what is below
    2⁻²⁵ becomes 0, as in 16 bits: gradients need a loss scale. (Micikevicius et al. 2018, arXiv:1710.03740.)
    """

    def __init__(self, inner: Products):
        self.inner, self.xp, self.blas = inner, inner.xp, inner.blas
        self.matmul = inner.matmul  # type: ignore[method-assign]
        self.about = f"float16 {inner.about}, emulated in float32"

    def operands(self, params):
        return zeros(np, params.size, params.dtype)

    def memory(self, arena, shape, tag=None):
        return arena.scratch(f"products.{tag}", shape) if tag else arena.empty(shape)

    def take(self, x, memory):
        """`memory`, with float32 `x` rounded into it."""
        halved(x.reshape(-1), memory.reshape(-1))
        return memory


class Bfloat16(Products):
    """Operands rounded to bfloat16, to the nearest and ties to even; `inner` multiplies, sums and results in float32.

    packed: operands are held in 16 bits, which a processor with matrix units multiplies faster (of the bits of a
    float32 the upper half; NumPy has no such type, so they show as uint16). Else they are held in float32: the same
    products, each exact in float32, at float32's speed. (Kalamkar et al. 2019, arXiv:1905.12322.)
    """

    def __init__(self, inner: Products, packed: bool):
        self.inner, self.packed = inner, packed
        self.xp, self.blas = inner.xp, inner.blas
        self.matmul = inner.matmul  # type: ignore[method-assign]
        self.about = f"bfloat16 {inner.about}" + ("" if packed else ", emulated in float32")

    def operands(self, params):
        return zeros(np, params.size, np.uint16 if self.packed else np.float32)

    def memory(self, arena, shape, tag=None):
        """Memory of 16 or of 32 bits an element."""
        dtype = np.uint16 if self.packed else np.float32
        return arena.scratch(f"products.{tag}", shape, dtype) if tag else arena.empty(shape, dtype)

    def take(self, x, memory):
        """`memory`, with float32 `x` rounded into it."""
        (pack if self.packed else rounded)(x.reshape(-1), memory.reshape(-1))
        return memory


def rounded(x: np.ndarray, out: np.ndarray) -> None:
    """out = flat float32 `x` to the nearest float32 whose lower 16 bits are 0, of two as near the even one."""
    for lo in range(0, x.size, BLOCK):
        bits, result = x[lo : lo + BLOCK].view(np.uint32), out[lo : lo + BLOCK].view(np.uint32)
        _carried(bits, result)
        np.bitwise_and(result, UPPER, result)


def pack(x: np.ndarray, out: np.ndarray) -> None:
    """out (uint16) = the upper halves of what `rounded` gives."""
    work = np.empty(min(BLOCK, x.size), np.uint32)
    for lo in range(0, x.size, BLOCK):
        bits = x[lo : lo + BLOCK].view(np.uint32)
        result = work[: bits.size]
        _carried(bits, result)
        np.right_shift(result, SIXTEEN, result)
        np.copyto(out[lo : lo + BLOCK], result, casting="unsafe")


EXPONENT, LOWEST, HIGHEST = (np.array(word, np.uint32) for word in (0x7F800000, 0x38800000, 0x48000000))
LIFT = np.array((13 << 23) + 0x400000, np.uint32)  # times 2^13 and 1.5
UP, DOWN = np.array(2.0**112, np.float32), np.array(2.0**-112, np.float32)


def halved(x: np.ndarray, out: np.ndarray) -> None:
    """out = flat float32 `x` to the nearest value that float16 has, ties to even; infinite from 65520 on.

    With 2^e the power of two below |x|, at least the least normal half's 2^-14: 1.5 · 2^(e+13) + x lies where
    float32s are 2^(e-10) apart, as halves are around x, so that adding and subtracting it rounds x. Then 2^16, the
    first that float16 lacks, times 2^112 is the first that float32 lacks.
    """
    work = np.empty(min(BLOCK, x.size), np.uint32)
    for lo in range(0, x.size, BLOCK):
        part, result = x[lo : lo + BLOCK], out[lo : lo + BLOCK]
        bits = work[: part.size]
        lift = bits.view(np.float32)
        np.bitwise_and(part.view(np.uint32), EXPONENT, bits)
        np.maximum(bits, LOWEST, out=bits)
        np.minimum(bits, HIGHEST, out=bits)
        np.add(bits, LIFT, bits)
        np.add(part, lift, result)
        np.subtract(result, lift, result)
        np.multiply(result, UP, result)
        np.multiply(result, DOWN, result)


def _carried(bits: np.ndarray, out: np.ndarray) -> None:
    """Add what carries into the upper half where the lower one is above its middle, or in it and the upper is odd."""
    np.right_shift(bits, SIXTEEN, out)
    np.bitwise_and(out, ONE, out)
    np.add(out, HALF, out)
    np.add(out, bits, out)


PLAIN, TRANSPOSED = 111, 112  # CBLAS's names of orders


def layout(x: Array) -> tuple[int, int]:
    """How a matrix lies, and the elements from one of its rows or columns to the next; 0: otherwise."""
    rows, columns = x.shape
    down, across = x.strides
    size = x.itemsize
    if across == size and down >= columns * size and down % size == 0:
        return PLAIN, down // size
    if down == size and across >= rows * size and across % size == 0:
        return TRANSPOSED, across // size
    return 0, 0
