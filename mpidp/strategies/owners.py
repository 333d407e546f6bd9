"""Gradients that go to their owners while backward computes, and leave no memory behind: ZeRO's second stage."""

import mmap
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Communicator, Steps
from mpidp.compression.sums import TAG
from mpidp.errors import UserError
from mpidp.strategies.buckets import Queue

LANES = 4
"""Buckets under way at a time: each holds memory, twice its length on its owner."""

HUGE_PAGE = (
    2 << 20
)  # bytes: in pages of this size the system provides memory five times as fast as in small ones


class Pages:
    """A vector of n zeros whose memory the system provides as it is written to, and takes back by `release`.

    Raises UserError on systems other than Linux: elsewhere `madvise` need not take pages back at once; and on a device.
    """

    def __init__(self, xp: Any, n: int, dtype: Any):
        if xp is not np:
            raise UserError(
                "--stage 2 gives the memory of gradients back page by page, which a device's memory does not: choose "
                "--stage 1"
            )
        if sys.platform != "linux":
            raise UserError(
                "--stage 2 gives the memory of gradients back to the system as only Linux takes it: choose --stage 1"
            )
        self.itemsize = np.dtype(dtype).itemsize
        self.memory = mmap.mmap(
            -1, n * self.itemsize + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self.start = -np.frombuffer(self.memory, np.uint8).ctypes.data % HUGE_PAGE
        self.vector = np.frombuffer(self.memory, dtype, n, self.start)
        if n * self.itemsize >= HUGE_PAGE:
            self.memory.madvise(mmap.MADV_HUGEPAGE)

    def release(self, part: slice) -> None:
        """Give back the pages that lie wholly in vector[part]: they are 0 from now on."""
        lo, hi = (self.start + bound * self.itemsize for bound in (part.start, part.stop))
        lo, hi = -(-lo // mmap.PAGESIZE) * mmap.PAGESIZE, hi // mmap.PAGESIZE * mmap.PAGESIZE
        if lo < hi:
            self.memory.madvise(mmap.MADV_DONTNEED, lo, hi - lo)


class ToOwners(Queue):
    """vector[chunk r] ← Σ over ranks of vector[chunk r], on its owner, rank r; no other chunk keeps memory.

    chunks: each owner's, covering the vector. Buckets are cut at the chunks' bounds and at multiples of `length`
    elements, rounded up to whole pages. Of a bucket that is complete every rank but its owner copies its contribution
    to where it is sent from and gives the pages back; the owner adds the contributions in rank order, its own in its
    turn, so that the bits are those of `server` and depend neither on `length` nor on who is first.
    `ready` waits for the oldest bucket while complete ones have no lane: no more than a bucket a lane is held, and what
    backward has not announced yet. Nobody waits for ever: of all buckets that are not summed, the first is the oldest
    of its owner and of every rank that has still to send to it.
    Messages: one for every bucket of others' chunks; n (P - 1) / P bytes a rank.
    """

    def __init__(self, comm: Communicator, pages: Pages, chunks: Sequence[slice], length: int):
        page = mmap.PAGESIZE // pages.itemsize
        length = max(1, -(-length // page)) * page
        n = pages.vector.size
        cuts = sorted({0, n, *range(0, n, length), *(chunk.start for chunk in chunks)})
        super().__init__(comm, [slice(lo, hi) for lo, hi in pairwise(cuts)][::-1], n, LANES)
        self.pages = pages
        self.owner = {part.start: r for r, c in enumerate(chunks) for part in self.slices if within(part, c)}
        longest = max((part.stop - part.start for part in self.slices), default=0)
        self.memory = np.empty((self.lanes, 2, longest), pages.vector.dtype)

    def ready(self, vector: Array, lo: int) -> None:
        super().ready(vector, lo)
        while self.started < len(self.slices) and self.slices[self.started].start >= lo:
            self.under_way[0].wait()
            self.advance(vector)

    def steps(self, vector: Array, part: slice, lane: int) -> Steps:
        owner, tag = self.owner[part.start], TAG + lane
        memory, landing = self.memory[lane, :, : part.stop - part.start]
        if self.comm.rank != owner:
            memory[...] = vector[part]
            self.pages.release(part)
            yield (self.comm.Isend(memory, owner, tag),)
            return
        total, below = vector[part], memory  # below: the sum of what lower ranks have sent
        for rank in range(self.comm.size):
            if rank == owner:
                if rank > 0:
                    total += below
                continue
            landed = below if rank == 0 else landing
            yield (self.comm.Irecv(landed, rank, tag),)
            if rank > owner:
                total += landed
            elif rank > 0:
                below += landed

    def cost(self) -> tuple[int, int]:
        """(messages, bytes) that this rank sends."""
        lengths = [p.stop - p.start for p in self.slices if self.owner[p.start] != self.comm.rank]
        return len(lengths), sum(lengths) * self.pages.itemsize


def within(part: slice, chunk: slice) -> bool:
    return chunk.start <= part.start < chunk.stop
