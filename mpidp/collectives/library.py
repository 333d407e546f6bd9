"""The MPI library's own collectives: the yardstick for ours."""

import numpy as np

from mpidp.arrays import Array
from mpidp.collectives.wire import Bytes, chunk, chunk_bounds
from mpidp.comm import Algorithm, Communicator, Steps


@Algorithm
def allreduce(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer ← Σ over ranks of buffer, in float32 or float64; `scratch` and `tag` are not used."""
    if comm.size > 1:
        yield (comm.Iallreduce(buffer),)


@Algorithm
def reduce_scatter(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer[chunk r] ← Σ over ranks of buffer[chunk r]; `scratch` holds a chunk."""
    if comm.size > 1:
        counts = chunk_lengths(buffer.size, comm.size)
        mine = scratch[: counts[comm.rank]]
        yield (comm.Ireduce_scatter(buffer, mine, counts),)
        buffer[chunk(buffer.size, comm.size, comm.rank)] = mine


@Algorithm
def all_gather(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
    """buffer[chunk i] ← rank i's buffer[chunk i], for every i."""
    if comm.size > 1:
        yield (comm.Iallgather(buffer, chunk_lengths(buffer.size, comm.size)),)


def chunk_lengths(n: int, size: int) -> list[int]:
    return np.diff(chunk_bounds(n, size)).tolist()


def cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """(messages, bytes) as counted: one buffer handed to the library; what it sends of it cannot be seen."""
    return (1, nbytes(n)) if size > 1 else (0, 0)


def gather_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """The same for an all-gather, to which our chunk is handed over (to a reduce-scatter it is the whole vector)."""
    return (1, nbytes(chunk_lengths(n, size)[rank])) if size > 1 else (0, 0)
