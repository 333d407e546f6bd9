"""On a device: what is not finite in a step is found where it lies, and the host asks once, when backward is done."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from mpidp.arrays import Array

PIECE = 1 << 20
"""Elements of the gradient that are looked at, and handed on, together: a launch takes as long as to read so many."""
NAP = 20e-6  # seconds between two questions, where a core may be somebody else's
THREADS, BLOCKS = 256, 1024

SOURCE = r"""
extern "C" __global__ void look(const REAL* x, double* flag, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
         i += (long long)gridDim.x * blockDim.x)
        if (!isfinite(x[i])) *flag = 1;
}
"""
"""Whoever finds something writes the same number, so that it does not matter who is first."""


@cache
def _look(xp: Any, dtype: np.dtype) -> Any:
    real = {"float32": "float", "float64": "double"}[dtype.name]
    return xp.RawModule(code=SOURCE, options=(f"-DREAL={real}",)).get_function("look")


class Flags:
    """For each kind of thing that is looked at a number on the device, 1 where some was not finite; and the loss.

    All that the host wants to know of a step comes to it in one copy (`read`), behind whatever the device does before:
    a step has one wait.
    """

    def __init__(self, xp: Any, kinds: int):
        self.xp = xp
        self.figures = xp.zeros(1 + kinds, np.float64)  # the loss, then the flags
        memory = xp.cuda.alloc_pinned_memory(self.figures.nbytes)
        self.host = np.frombuffer(memory, np.float64, 1 + kinds)
        self.waits: int | None = None  # where the part of the gradient ends that is final and not looked at

    def begin(self) -> None:
        """A new step."""
        self.figures[...] = 0
        self.waits = None

    def look(self, vector: Array, kind: int) -> None:
        """Is there anything in it that is not finite?"""
        if vector.size:
            blocks = min(BLOCKS, -(-vector.size // THREADS))
            flag = self.figures[1 + kind : 2 + kind]
            _look(self.xp, vector.dtype)((blocks,), (THREADS,), (vector, flag, np.int64(vector.size)))

    def piece(self, lo: int, hi: int) -> slice | None:
        """What is now to be looked at of the gradient, of which [lo, hi) is final too; None: it is to grow first."""
        stop = hi if self.waits is None else self.waits
        if lo > 0 and stop - lo < PIECE:
            self.waits = stop
            return None
        self.waits = None
        return slice(lo, stop)

    def read(
        self, loss: float | Array, meanwhile: Callable[[], None], spin: float
    ) -> tuple[float, list[int]]:
        """The loss, and the kinds of what was not finite, when the device has come so far.

        Calls `meanwhile` as long as it waits; without a pause for `spin` seconds.
        """
        self.figures[0] = loss
        self.figures.get(out=self.host, blocking=False)
        event, began = self.xp.cuda.get_current_stream().record(), time.perf_counter()
        while not event.done:
            meanwhile()
            if time.perf_counter() - began > spin:
                time.sleep(NAP)
        return float(self.host[0]), np.flatnonzero(self.host[1:]).tolist()
