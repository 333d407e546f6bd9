"""Dense products: who computes them, and in which type their operands are held.

A layer asks the arena's `products` for `memory` in `plan`, has each operand `take`n into it once, and hands what it got
to every product with that operand, transposed or not; in float32 and float64 an operand is the array itself.
"""

from typing import Any

import numpy as np

from mpidp.arrays import Array

BLOCK = 65536  # elements rounded at a time: in and out stay in a core's second-level cache
HALF, ONE, SIXTEEN, UPPER = (np.array(word, np.uint32) for word in (0x7FFF, 1, 16, 0xFFFF0000))


class Products:
    """Products by the arrays' own module: NumPy with the BLAS that it carries, or CuPy."""

    blas = "numpy"
    about = "products by numpy"  # how a run speaks of it

    def __init__(self, xp: Any = np):
        self.xp = xp

    def memory(self, arena, shape: tuple[int, ...], tag: str | None = None) -> Array | None:
        """What an operand of this shape is to be `take`n into: the asker's own, or shared by all who say this tag."""
        return None

    def take(self, x: Array, memory: Array | None) -> Array:
        """`x` as `matmul` wants its operands."""
        return x

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """out = a b, as NumPy's matmul; operands that were not `take`n are multiplied in their own type."""
        self.xp.matmul(a, b, out=out)


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


def _carried(bits: np.ndarray, out: np.ndarray) -> None:
    """Add what carries into the upper half where the lower one is above its middle, or in it and the upper is odd."""
    np.right_shift(bits, SIXTEEN, out)
    np.bitwise_and(out, ONE, out)
    np.add(out, HALF, out)
    np.add(out, bits, out)
