"""Pairwise exchange: every rank sends each chunk straight to its owner, who adds up and sends the sum to all.

The vector is cut into P chunks. In step s = 1 .. P - 1 of the reduce-scatter rank r sends chunk r - s to rank r - s,
whose it is, and adds what comes from rank r + s to its own: the sum of chunk r is made in the order r, r + 1, ...,
r - 1. For the all-gather every rank sends its chunk to all others at once.

    messages a rank = 2 (P - 1),        bytes a rank = 2 n (P - 1) / P

as around the ring; but what travels is what a rank itself has to contribute, never a sum: encodings that cannot be
added up on the way need that.
Source: Thakur, Rabenseifner & Gropp 2005, Int. J. High Perform. Comput. Appl. 19(1).
"""

from itertools import pairwise

from mpidp.collectives.wire import Bytes, Wire, chunk, chunk_bounds, of_halves, plain
from mpidp.comm import Algorithm, Communicator, Steps


@Algorithm
def coded_reduce_scatter(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[chunk r] ← Σ over ranks of vector[chunk r]; the other chunks are left as they are.

    Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = wire.size, comm.size, comm.rank
    mine = chunk(n, size, rank)
    wire.own(mine)
    for step in range(1, size):
        owner, source = (rank - step) % size, (rank + step) % size
        incoming = wire.landing(mine)
        outgoing = wire.partial(chunk(n, size, owner))
        yield comm.Irecv(incoming, source, tag), comm.Isend(outgoing, owner, tag)
        wire.add(mine, incoming)


@Algorithm
def coded_all_gather(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[chunk i] ← rank i's vector[chunk i], for every i.

    Cost: P - 1 messages, n (P - 1) / P bytes a rank.
    """
    n, size, rank = wire.size, comm.size, comm.rank
    others = [(rank + step) % size for step in range(1, size)]
    outgoing = wire.whole(chunk(n, size, rank))
    receives = [comm.Irecv(wire.home(chunk(n, size, other)), other, tag) for other in others]
    sends = [comm.Isend(outgoing, other, tag) for other in reversed(others)]
    yield [*receives, *sends]
    for other in others:
        wire.place(chunk(n, size, other))


allreduce, reduce_scatter, all_gather = plain(coded_reduce_scatter, coded_all_gather)


def scatter_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """Of the reduce-scatter: the chunks of all others."""
    sizes = [nbytes(hi - lo) for lo, hi in pairwise(chunk_bounds(n, size))]
    return size - 1, sum(sizes) - sizes[rank]


def gather_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """Of the all-gather: our own chunk to all others."""
    mine = chunk(n, size, rank)
    return size - 1, (size - 1) * nbytes(mine.stop - mine.start)


cost = of_halves(scatter_cost, gather_cost)
