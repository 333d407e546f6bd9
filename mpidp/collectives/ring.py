"""Ring all-reduce by point-to-point messages (Patarasuk & Yuan, J. Parallel Distrib. Comput. 69, 2009).

The vector is cut into P chunks. In P - 1 steps every rank passes one chunk to its right neighbour and adds what
comes from its left, until rank r holds the whole sum of chunk r (reduce-scatter). In P - 1 more steps the finished
chunks travel once around (all-gather). Every rank sends each step, so all links are busy all the time, and

    messages a rank = 2 (P - 1),        bytes a rank = 2 n (P - 1) / P

for a vector of n bytes: no algorithm sends fewer bytes. Time: 2 (P - 1) α + 2 n (P - 1) / P · β + n (P - 1) / P · γ.

The sum of a chunk is made in one place and then copied, so all ranks hold the same bits.
"""

from itertools import pairwise

from mpidp.collectives.wire import Bytes, Wire, chunk, chunk_bounds, of_halves, plain
from mpidp.comm import Algorithm, Communicator, Steps


@Algorithm
def coded_reduce_scatter(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[chunk r] ← Σ over ranks of vector[chunk r]; the other chunks are left with partial sums.

    Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = wire.size, comm.size, comm.rank
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(1, size):
        ours, theirs = chunk(n, size, rank - step), chunk(n, size, rank - step - 1)
        incoming = wire.landing(theirs)
        yield comm.Irecv(incoming, left, tag), comm.Isend(wire.partial(ours), right, tag)
        wire.add(theirs, incoming)


@Algorithm
def coded_all_gather(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[chunk i] ← rank i's vector[chunk i], for every i.

    Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = wire.size, comm.size, comm.rank
    right, left = (rank + 1) % size, (rank - 1) % size
    outgoing = wire.whole(chunk(n, size, rank))
    for step in range(1, size):
        theirs = chunk(n, size, rank - step)
        yield comm.Irecv(wire.home(theirs), left, tag), comm.Isend(outgoing, right, tag)
        wire.place(theirs)
        outgoing = wire.home(theirs)


allreduce, reduce_scatter, all_gather = plain(coded_reduce_scatter, coded_all_gather)


def scatter_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """Of the reduce-scatter: every chunk but our own, whose sum stays here."""
    return all_but(n, size, rank, nbytes)


def gather_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """Of the all-gather: every chunk but our right neighbour's, which is not ours to pass on."""
    return all_but(n, size, (rank + 1) % size, nbytes)


def all_but(n: int, size: int, one: int, nbytes: Bytes) -> tuple[int, int]:
    sizes = [nbytes(hi - lo) for lo, hi in pairwise(chunk_bounds(n, size))]
    return size - 1, sum(sizes) - sizes[one]


cost = of_halves(scatter_cost, gather_cost)
