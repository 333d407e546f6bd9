"""Ring all-reduce by point-to-point messages (Patarasuk & Yuan, J. Parallel Distrib. Comput. 69, 2009).

The vector is cut into P chunks. In P - 1 steps every rank passes one chunk to its right neighbour and adds what
comes from its left, until rank r holds the whole sum of chunk r (reduce-scatter). In P - 1 more steps the finished
chunks travel once around (all-gather). Every rank sends each step, so all links are busy all the time, and

    messages a rank = 2 (P - 1),        bytes a rank = 2 n (P - 1) / P

for a vector of n bytes: no algorithm sends fewer bytes. Time: 2 (P - 1) α + 2 n (P - 1) / P · β + n (P - 1) / P · γ.

The sum of a chunk is made in one place and then copied, so all ranks hold the same bits.
"""

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Algorithm, Communicator, Steps


def chunk(n: int, size: int, i: int) -> slice:
    """Chunk i (mod `size`) of a vector of n elements cut into `size` chunks that differ by one at most."""
    i %= size
    return slice(i * n // size, (i + 1) * n // size)


@Algorithm
def reduce_scatter(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer[chunk r] ← Σ over ranks of buffer[chunk r]; the other chunks are left with partial sums.

    `scratch` holds a chunk: ceil(n / P) elements. Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = buffer.size, comm.size, comm.rank
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(1, size):
        ours, theirs = chunk(n, size, rank - step), chunk(n, size, rank - step - 1)
        incoming = scratch[: theirs.stop - theirs.start]
        yield comm.Irecv(incoming, left, tag), comm.Isend(buffer[ours], right, tag)
        buffer[theirs] += incoming


@Algorithm
def all_gather(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
    """buffer[chunk i] ← rank i's buffer[chunk i], for every i.

    Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = buffer.size, comm.size, comm.rank
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(size - 1):
        ours, theirs = chunk(n, size, rank - step), chunk(n, size, rank - step - 1)
        yield comm.Irecv(buffer[theirs], left, tag), comm.Isend(buffer[ours], right, tag)


@Algorithm
def allreduce(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer ← Σ over ranks of buffer, the same bits on every rank; `scratch` of ceil(n / P) elements or more."""
    yield from reduce_scatter.steps(comm, buffer, scratch, tag)
    yield from all_gather.steps(comm, buffer, tag)


def cost(n: int, size: int, rank: int, itemsize: int) -> tuple[int, int]:
    """(messages, bytes) that `rank` sends in one all-reduce of n elements: exact, also where P does not divide n."""
    if size == 1:
        return 0, 0
    lengths = np.diff([i * n // size for i in range(size + 1)])
    # Each phase sends every chunk but one: our own sum stays here, and our right neighbour's is not ours to pass on.
    elements = 2 * n - lengths[rank] - lengths[(rank + 1) % size]
    return 2 * (size - 1), int(elements) * itemsize
