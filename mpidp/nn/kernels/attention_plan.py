"""Which CUDA kernels compute attention for a head size and the types at hand, and how they are cut into blocks.

Needs no CuPy, so that all sources can be compiled, and counted, on a machine without a GPU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from mpidp.errors import UserError
from mpidp.nn.kernels import cuda_attention, cuda_attention_backward, cuda_attention_scalar, cuda_tensor_cores

FORWARD, QUERIES, KEYS = "attention", "attention_backward_queries", "attention_backward_keys"
ROLES = {FORWARD: ("QKV", "OUT"), QUERIES: ("QKV", "OUT", "DOUT", "DQKV"), KEYS: ("QKV", "DOUT", "DQKV")}
"""The kernels, and whose types each must know."""
BF16, FP16, TF32 = "BF16", "FP16", "TF32"
TENSOR_CORES = {
    FORWARD: cuda_attention.FORWARD,
    QUERIES: cuda_attention_backward.QUERIES,
    KEYS: cuda_attention_backward.KEYS,
}
SCALAR = {
    FORWARD: cuda_attention_scalar.FORWARD,
    QUERIES: cuda_attention_scalar.QUERIES,
    KEYS: cuda_attention_scalar.KEYS,
}
DEEPEST = 128  # columns of a head whose sums fit a warp's registers
SHARED = 99 << 10
"""Bytes of shared memory that a block may have on every GPU since compute capability 8.0 (163 KB on 8.0, 227 KB on 9.0:
two blocks there)."""
REGISTERS = 160
"""Of a thread, for what is summed up; with addresses and operands it is nearly all of the 255 that there are."""
CUTS = ((4, 2, 64), (4, 2, 32), (4, 1, 64), (4, 1, 32), (2, 2, 32), (2, 1, 32), (2, 1, 16))
"""Warps of a block, sixteens of rows a warp, rows of a passing tile; first what multiplies most for what it reads."""
PARTS = (64, 32, 16)


@dataclass(frozen=True)
class Kernel:
    """One kernel of a source: how many rows (of queries or keys) its blocks have, and what a block needs."""

    name: str
    source: str
    options: tuple[str, ...]
    rows: int
    threads: int
    shared: int  # bytes


def chosen(name: str, operands: str | None, real: str, depth: int, types: dict[str, str]) -> Kernel:
    """The kernel of this name (of ROLES) for heads of `depth` columns.

    operands: BF16, FP16 or TF32, whose products tensor cores make, or None; real: float or double; types: for each of
    the kernel's roles `real`, or "word" for 16 bits of the operands' type. Raises UserError where no kernel does it.
    """
    if operands and real == "float" and depth % 16 == 0 and depth <= DEEPEST:
        return _tensor_cores(name, operands, depth, types)
    return _scalar(name, operands, real, depth, types)


def _options(name: str, types: dict[str, str], **values: object) -> tuple[str, ...]:
    named = {**{role: types[role] for role in ROLES[name]}, **values}
    return tuple(f"-D{key}={value}" for key, value in named.items())


def _tensor_cores(name: str, operands: str, depth: int, types: dict[str, str]) -> Kernel:
    for warps, sixteens, tile in CUTS:
        for part in (tile,) if name == FORWARD else PARTS:
            registers, shared = _needs(name, operands, depth, warps, sixteens, tile, part)
            if part <= tile and registers <= REGISTERS and shared <= SHARED:
                source = cuda_tensor_cores.PTX + cuda_tensor_cores.FRAGMENTS
                source += cuda_attention.HEAD + cuda_attention.TILES + TENSOR_CORES[name]
                sizes = {"WARPS": warps, "M_TILES": sixteens, "TILE_ROWS": tile, "PART_ROWS": part}
                options = _options(name, types, DEPTH=depth, **sizes, **{operands: 1})
                return Kernel(name, source, options, 16 * sixteens * warps, 32 * warps, shared)
    raise AssertionError(f"no cut of {name} for {operands} and {depth} columns")


def _needs(name, operands, depth, warps, sixteens, tile, part) -> tuple[int, int]:
    """Registers of a thread for sums (4 for 16 x 8 numbers of a warp), and bytes of shared memory of a block."""
    results = {FORWARD: 1, QUERIES: 1, KEYS: 2}[name]
    scores = {FORWARD: 1, QUERIES: 2, KEYS: 2}[name]
    registers = sixteens * (results * depth + scores * part) // 2
    held = {FORWARD: 1, QUERIES: 2, KEYS: 2}[name] * 16 * sixteens * warps
    row = (depth + 8) * (4 if operands == TF32 else 2)
    vectors = 2 * 2 * tile * 4 if name == KEYS else 0
    return registers, (held + 2 * 2 * tile) * row + vectors


def _scalar(name: str, operands: str | None, real: str, depth: int, types: dict[str, str]) -> Kernel:
    for size in (64, 32, 16):
        shared = _scalar_shared(size, real, depth)
        if shared <= SHARED:
            words = {operands: 1} if operands in (BF16, FP16) else {}
            options = _options(name, types, REAL=real, DEPTH=depth, SIZE=size, **words)
            source = cuda_tensor_cores.PTX + cuda_attention.HEAD + cuda_attention_scalar.TILES + SCALAR[name]
            return Kernel(name, source, options, size, 256, shared)
    largest = next(d for d in range(depth, 0, -1) if _scalar_shared(16, real, d) <= SHARED)
    raise UserError(
        f"attention heads of {depth} columns: on a GPU they may have {largest} at most ({real}): take more heads, or a "
        "smaller width"
    )


def _scalar_shared(size: int, real: str, depth: int) -> int:
    """Bytes of four tiles and of a square of scores, whose rows are an odd number of 16 bytes."""
    itemsize = {"float": 4, "double": 8}[real]
    wide = 16 // itemsize
    return sum(n * (-(-columns // wide) | 1) for n, columns in ((4, depth), (1, size))) * 16 * size


def of_products(products) -> str | None:
    """The type whose products tensor cores make for these `Products`, or None."""
    if products.narrow is not None:
        return FP16 if products.narrow == np.float16 else BF16
    return TF32 if products.tf32 else None


EVERY_DEPTH = (*range(16, DEEPEST + 1, 16), 20, 160)


def all_kernels(depths: Iterable[int] = EVERY_DEPTH) -> Iterator[Kernel]:
    """Every kernel, for these head sizes and for all types, for those who compile them without a GPU."""
    kinds = (
        (BF16, "float", "word"),
        (BF16, "float", "float"),
        (FP16, "float", "word"),
        (TF32, "float", "float"),
        (None, "float", "float"),
        (None, "double", "double"),
    )
    for name, depth, (operands, real, kept) in product(ROLES, depths, kinds):
        yield chosen(name, operands, real, depth, dict.fromkeys(("QKV", "OUT", "DOUT", "DQKV"), kept))
