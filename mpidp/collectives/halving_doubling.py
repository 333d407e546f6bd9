"""Recursive halving and doubling: an all-reduce in 2 lg P rounds that sends no more bytes than the ring.

The vector is cut into P chunks. P = 2^k: ranks that differ in their lowest bit exchange halves of the vector, so that
each has to do with one half from then on, to which it adds what came; then those that differ in the next bit exchange
halves of that half; after k rounds each holds the whole sum of one chunk (reduce-scatter). The same rounds in reverse
hand the sums out (all-gather).

    messages a rank = 2 lg P,        bytes a rank = 2 n (P - 1) / P

Neighbours come first, so that every sum is made in one fixed binary tree over the ranks in their order, bit by bit,

    ((x_0 + x_1) + (x_2 + x_3)) + ((x_4 + x_5) + (x_6 + x_7))

and the chunk with which a rank ends up has the bits of its number reversed (`part`).
Source: Rabenseifner 2004, LNCS 3036; Thakur, Rabenseifner & Gropp 2005, Int. J. High Perform. Comput. Appl. 19(1).

Other P: as many rounds, ⌈lg P⌉ each way, and as few bytes, around a circle. Rank r has the chunks r, r + 1, ..., r - 1
to do at first. With a of them to do and d = ⌈a / 2⌉ it sends the last a - d to rank r + d, for whom they are the first,
and gets its own first a - d from rank r - d; d are left, at last chunk r alone. A round takes two messages where its
chunks lie on both sides of the vector's end.
Source: Träff 2024, "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", arXiv 2410.14234.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mpidp.collectives.wire import Bytes, Wire, chunk, of_halves, plain
from mpidp.comm import Algorithm, Communicator, Steps


@dataclass(frozen=True)
class Round:
    """Of the reduce-scatter: chunks `sent` go to rank `to`, chunks `kept` come from rank `source`.

    Each as one run of chunk numbers, or two of them. In the all-gather everything goes back.
    """

    to: int
    source: int
    sent: tuple[range, ...]
    kept: tuple[range, ...]


@lru_cache(256)
def rounds(size: int, rank: int) -> tuple[Round, ...]:
    mine, found = owned(size, rank), []
    todo = size
    while todo > 1:
        distance = -(-todo // 2)
        count = todo - distance
        if is_power_of_two(size):
            theirs = mine ^ distance
            partner = owned(size, theirs)  # the reversal of bits undoes itself
            halves = [runs(one // distance * distance, distance, size) for one in (theirs, mine)]
            found.append(Round(partner, partner, *halves))
        else:
            to, source = (mine + distance) % size, (mine - distance) % size
            found.append(Round(to, source, runs(mine + distance, count, size), runs(mine, count, size)))
        todo = distance
    return tuple(found)


def owned(size: int, rank: int) -> int:
    """The chunk whose sum the reduce-scatter leaves on `rank`."""
    if not is_power_of_two(size):
        return rank
    bits = size.bit_length() - 1
    return int(f"{rank:0{bits}b}"[::-1], 2)


def is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


def runs(first: int, count: int, size: int) -> tuple[range, ...]:
    """`count` chunk numbers from `first` on, around the circle: in one run or two."""
    first %= size
    behind = first + count - size
    return (range(first, first + count),) if behind <= 0 else (range(first, size), range(behind))


def slices(n: int, size: int, chunks: Iterable[range]) -> list[slice]:
    """Each run of chunks as a slice of a vector of n elements."""
    return [slice(run.start * n // size, run.stop * n // size) for run in chunks]


def part(n: int, size: int, rank: int) -> slice:
    """The slice whose sum the reduce-scatter leaves on `rank`."""
    return chunk(n, size, owned(size, rank))


@Algorithm
def coded_reduce_scatter(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[part of rank r] ← Σ over ranks; the other parts are left with partial sums.

    Cost: lg P messages (where P is no power of two ⌈lg P⌉ to 2 ⌈lg P⌉), n (P - 1) / P bytes a rank.
    """
    n, size = wire.size, comm.size
    for now in rounds(size, comm.rank):
        kept = slices(n, size, now.kept)
        landed = [wire.landing(run, slot) for slot, run in enumerate(kept)]
        receives = [comm.Irecv(memory, now.source, tag) for memory in landed]
        sends = [comm.Isend(wire.partial(run), now.to, tag) for run in slices(n, size, now.sent)]
        yield [*receives, *sends]
        for run, memory in zip(kept, landed, strict=True):
            wire.add(run, memory)


@Algorithm
def coded_all_gather(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[part of rank i] ← what rank i has there, for every i. Cost: that of the reduce-scatter."""
    n, size = wire.size, comm.size
    wire.whole(part(n, size, comm.rank))
    for now in reversed(rounds(size, comm.rank)):
        incoming = slices(n, size, now.sent)
        receives = [comm.Irecv(wire.home(run), now.to, tag) for run in incoming]
        sends = [comm.Isend(wire.home(run), now.source, tag) for run in slices(n, size, now.kept)]
        yield [*receives, *sends]
        for run in incoming:
            wire.place(run)


def landing(n: int, size: int) -> tuple[int, int]:
    """Half of the chunks at a time: in one piece, or, where P is no power of two, in two."""
    return (1 if is_power_of_two(size) else 2), size // 2 * -(-n // size)


allreduce, reduce_scatter, all_gather = plain(coded_reduce_scatter, coded_all_gather, landing)


def scatter_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """The same for the reduce-scatter."""
    return cost_of([run for now in rounds(size, rank) for run in now.sent], n, size, nbytes)


def gather_cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """The same for the all-gather."""
    return cost_of([run for now in rounds(size, rank) for run in now.kept], n, size, nbytes)


def cost_of(messages: list[range], n: int, size: int, nbytes: Bytes) -> tuple[int, int]:
    cells = [chunk(n, size, i) for run in messages for i in run]
    return len(messages), sum(nbytes(cell.stop - cell.start) for cell in cells)


cost = of_halves(scatter_cost, gather_cost)
