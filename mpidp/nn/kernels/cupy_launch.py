"""How kernels of `cuda_source` are launched: compiled once for each pair of types, and told where arrays begin."""

from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.cuda_source import SOURCE, VARIANTS

THREADS = 256
BLOCKS = 2048  # for kernels whose threads stride over all elements
LARGEST_SHARED = 48 << 10  # bytes that a kernel may have without asking
TYPES = {"float32": "float", "float64": "double", "uint16": "bfloat16", "float16": "half"}
NOTHING = np.uintp(0)  # in the place of an array


@cache
def _function(name: str, real: str, narrow: str) -> Any:
    return _module(TYPES[real], None if narrow == real else TYPES[narrow]).get_function(name)


@cache
def _module(real: str, narrow: str | None) -> Any:
    return cupy.RawModule(code=SOURCE, options=VARIANTS[real, narrow])


def launch(
    name: str, types: tuple[np.dtype, np.dtype], blocks: int, *arguments: Any, threads=THREADS, shared=0
) -> None:
    """Run a kernel for (real, narrow) on so many blocks; nothing where these are none."""
    if not blocks:
        return
    function = _function(name, types[0].name, types[1].name)
    if shared > LARGEST_SHARED and function.max_dynamic_shared_size_bytes < shared:
        function.max_dynamic_shared_size_bytes = shared
    function((blocks,), (threads,), arguments, shared_mem=shared)


def strided(count: int) -> int:
    """Blocks for `count` elements, or packs, of which each thread takes one at a time."""
    return min(BLOCKS, -(-count // THREADS))


def narrowed(x: Any, out: Any) -> None:
    """out = x to the nearest number of its 16-bit type, ties to even."""
    launch("round_to_narrow", (x.dtype, out.dtype), strided(-(-x.size // 8)), x, out, np.int64(x.size))
