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

THREADS, BLOCKS = 256, 2112  # of at most so many blocks: twice what 132 multiprocessors hold at a time
PACK = 16  # bytes
LOADS = 8  # of a thread that are on their way together

# Vectors begin at the same place within 16 bytes: first the elements up to a boundary and those behind the last pack.
SOURCE = r"""
typedef REAL real;
struct alignas(16) Pack { real part[16 / sizeof(real)]; };

extern "C" __global__ void add_vectors(PARAMETERS, long long head, long long packs, long long tail) {
    const real* from[FROM] = {INPUTS};
    real* to[TO] = {OUTPUTS};
    const long long each = 16 / sizeof(real);
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    const long long stride = gridDim.x * (long long)blockDim.x;
    for (long long i = first; i < head + tail; i += stride) {
        long long j = i < head ? i : i + packs * each;
        real sum = from[0][j];
        for (int k = 1; k < FROM; k++) sum += from[k][j];
        for (int k = 0; k < TO; k++) to[k][j] = sum;
    }
    for (long long i = first; i < packs; i += AT_ONCE * stride) {
        Pack loaded[AT_ONCE][FROM];
        #pragma unroll
        for (int a = 0; a < AT_ONCE; a++)
            if (i + a * stride < packs) {
                #pragma unroll
                for (int k = 0; k < FROM; k++)
                    loaded[a][k] = reinterpret_cast<const Pack*>(from[k] + head)[i + a * stride];
            }
        #pragma unroll
        for (int a = 0; a < AT_ONCE; a++)
            if (i + a * stride < packs) {
                Pack sum = loaded[a][0];
                #pragma unroll
                for (int k = 1; k < FROM; k++)
                    #pragma unroll
                    for (int p = 0; p < 16 / (int)sizeof(real); p++) sum.part[p] += loaded[a][k].part[p];
                #pragma unroll
                for (int k = 0; k < TO; k++) reinterpret_cast<Pack*>(to[k] + head)[i + a * stride] = sum;
            }
    }
}
"""
REALS = {"float32": "float", "float64": "double"}


def source(sources: int, targets: int) -> str:
    """The kernel for so many inputs and outputs."""
    inputs, outputs = (
        [f"{letter}{k}" for k in range(count)] for letter, count in (("s", sources), ("t", targets))
    )
    parameters = [*(f"const real* {name}" for name in inputs), *(f"real* {name}" for name in outputs)]
    text = SOURCE
    for name, words in (("PARAMETERS", parameters), ("INPUTS", inputs), ("OUTPUTS", outputs)):
        text = text.replace(name, ", ".join(words))
    return f"#define FROM {sources}\n#define TO {targets}\n#define AT_ONCE {max(1, LOADS // sources)}\n{text}"


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
