"""Sums in memory that the ranks of one host share: nothing is sent.

Every rank's vector lies where its peers can read and write it (`Communicator.Allocate_shared`). Rank r owns chunk r:
block by block, small enough to stay in its cache, it adds its peers' blocks to its own and, for an all-reduce, writes
the sum back into every peer's vector. Two fences: before (all vectors are complete) and after (all sums are there).

    messages = 0,   bytes of peers' memory that a rank reads n (P - 1) / P, and, for an all-reduce, writes as many

The sum of a chunk is made in one place, so all ranks hold the same bits. Short vectors are summed in one go instead,
with one fence, since fences are most of their time: every rank shows a copy of its vector, and adds up the copies of
all, in rank order and so to the same bits. That reads n (P - 1) bytes of peers' memory. There are two places for
copies, used in turn: a rank that passes a fence knows that nobody reads the copies of the call before any more.
A vector outside of shared memory (one that is summed once, at a merge) takes the ring.
"""

from functools import lru_cache

import numpy as np

from mpidp.arrays import ALIGNMENT, Array, address
from mpidp.collectives import ring
from mpidp.collectives.wire import Bytes
from mpidp.comm import Algorithm, Communicator, Steps

BLOCK = 1 << 16
"""Elements that are added at a time: one block of every rank stays in a core's second-level cache."""

SHORT = 1 << 13
"""Elements of all ranks together up to which vectors are short."""


class Short(list[Array]):
    """Every rank's vector of n elements, and the two places for copies of it that each has behind it."""

    def __init__(self, memory: list[Array], n: int):
        stride = len(memory[0]) // 3
        own, *copies = ([part[start:][:n] for part in memory] for start in (0, stride, 2 * stride))
        super().__init__(own)
        self.copies = copies
        self.calls = 0


@Algorithm
def allreduce(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer ← Σ over ranks of buffer, the same bits on every rank."""
    if buffer.size == 0:
        return
    parts = comm.shared_parts(buffer)
    if parts is None:
        yield from ring.allreduce.steps(comm, buffer, scratch, tag)
        return
    if isinstance(parts, Short):
        parts.calls += 1
        copies = parts.copies[parts.calls % 2]
        comm.xp.copyto(copies[comm.rank], buffer)
        yield (comm.Ifence(),)
        add_all(comm, copies, buffer)
        comm.traffic.shared_bytes += buffer.nbytes * (comm.size - 1)
        return
    yield (comm.Ifence(),)
    add_own_chunk(comm, parts, [*parts[: comm.rank], *parts[comm.rank + 1 :]])
    yield (comm.Ifence(),)


@Algorithm
def reduce_scatter(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer[chunk r] ← Σ over ranks of buffer[chunk r]; nobody may write its buffer before `all_gather` is done."""
    if buffer.size == 0:
        return
    parts = comm.shared_parts(buffer)
    if parts is None:
        yield from ring.reduce_scatter.steps(comm, buffer, scratch, tag)
        return
    yield (comm.Ifence(),)
    add_own_chunk(comm, parts, [])


@Algorithm
def all_gather(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
    """All ranks see what each has written into its chunk of a vector that there is once (`allocate_common`)."""
    if buffer.size == 0:
        return
    parts = comm.shared_parts(buffer)
    if parts is None:
        yield from ring.all_gather.steps(comm, buffer, tag)
        return
    yield (comm.Ifence(),)
    others = [part for part in parts if address(part) != address(buffer)]
    if others:
        write(comm, buffer, ring.chunk(buffer.size, comm.size, comm.rank), others)
        yield (comm.Ifence(),)


def add_own_chunk(comm: Communicator, parts: list[Array], receivers: list[Array]) -> None:
    """Our chunk ← its sum over `parts`, copied to `receivers`."""
    add(comm, parts, comm.rank, ring.chunk(parts[0].size, comm.size, comm.rank), receivers)


def add(comm: Communicator, parts: list[Array], ours: int, chunk: slice, receivers: list[Array]) -> None:
    """parts[ours][chunk] ← its sum over `parts` in the order ours, ours + 1, ..., ours - 1, copied to `receivers`."""
    vector, peers = parts[ours], [*parts[ours + 1 :], *parts[:ours]]
    comm.traffic.shared_bytes += (chunk.stop - chunk.start) * vector.itemsize * (len(peers) + len(receivers))
    if comm.xp is not np:
        on_gpu([each[chunk] for each in (vector, *peers)], [each[chunk] for each in (vector, *receivers)])
        return
    for block in blocks(chunk.start, chunk.stop):
        total = vector[block]
        for peer in peers:
            np.add(total, peer[block], total)
        for receiver in receivers:
            receiver[block] = total


def add_all(comm: Communicator, vectors: list[Array], total: Array) -> None:
    """total ← the sum of `vectors`, in their order."""
    if comm.xp is not np:
        on_gpu(vectors, [total])
        return
    np.add(vectors[0], vectors[1], total)
    for vector in vectors[2:]:
        np.add(total, vector, total)


def write(comm: Communicator, buffer: Array, part: slice, others: list[Array]) -> None:
    """others[part] ← buffer[part]"""
    comm.traffic.shared_bytes += buffer[part].nbytes * len(others)
    if comm.xp is not np:
        on_gpu([buffer[part]], [other[part] for other in others])
        return
    for other in others:
        other[part] = buffer[part]


def on_gpu(sources: list[Array], targets: list[Array]) -> None:
    """Each of `targets` ← the sum of `sources`."""
    from mpidp.collectives.cupy_sums import add  # needs CuPy

    add(sources, targets)


@lru_cache(256)
def blocks(start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(lo, min(lo + BLOCK, stop)) for lo in range(start, stop, BLOCK))


def allocate(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """A vector of ours that the others can read and write."""
    if comm.size == 1 or not 0 < n * comm.size <= SHORT:
        return comm.Allocate_shared(n, dtype)[comm.rank]
    aligned = -(-n // ALIGNMENT) * ALIGNMENT  # elements, and so bytes of any type
    memory = comm.Allocate_shared(3 * aligned, dtype)
    short = comm.windows[address(memory[comm.rank])] = Short(memory, n)
    return short[comm.rank]


def allocate_common(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """One vector for all ranks: there is one copy of it on the host. On GPUs each rank has its own near at hand."""
    if comm.xp is not np:
        return comm.Allocate_shared(n, dtype)[comm.rank]
    vector = comm.Allocate_shared(n if comm.rank == 0 else 0, dtype)[0]
    comm.windows[address(vector)] = [vector] * comm.size
    return vector


def cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """(messages, bytes) that `rank` sends: none."""
    return 0, 0
