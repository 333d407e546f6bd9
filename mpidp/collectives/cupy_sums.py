"""Sums of vectors in the memory of several GPUs, or of several ranks on one: one kernel, one pass.

Every input is read once, they are added in order, and the sum is written to every output; outputs may be inputs.
16 bytes are moved at a time, of several inputs and places before anything is written: what is on its way from memory
is what its speed is made of.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.arrays import Array, address
from mpidp.collectives.cuda_sums import REALS, source

THREADS, BLOCKS = 256, 2112  # of at most so many blocks: twice what 132 multiprocessors hold at a time
PACK = 16  # bytes


@cache
def kernel(dtype: np.dtype, sources: int, targets: int) -> Any:
    real = REALS[dtype.name]
    return cupy.RawModule(code=source(sources, targets), options=(f"-DREAL={real}",)).get_function(
        "add_vectors"
    )


def add(sources: Sequence[Array], targets: Sequence[Array]) -> None:
    """Each of `targets` ← Σ of `sources` in their order: vectors of one length, type and place within 16 bytes.

    As the current stream's next work.
    """
    first = sources[0]
    n, itemsize = first.size, first.itemsize
    if not n or not targets:
        return
    head = min(-address(first) % PACK // itemsize, n)
    packs = (n - head) * itemsize // PACK
    tail = n - head - packs * PACK // itemsize
    blocks = min(BLOCKS, -(-max(packs, head + tail) // THREADS))
    lengths = np.int64(head), np.int64(packs), np.int64(tail)
    kernel(first.dtype, len(sources), len(targets))((blocks,), (THREADS,), (*sources, *targets, *lengths))
