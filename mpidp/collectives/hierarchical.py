"""Sums over several hosts with several ranks each: shared memory inside a host, rings between the hosts.

A rank's place is its number among the ranks of its host. With K the smallest number of ranks of any host, the ranks
of place k < K, one on each host, are column k. The vector is cut into P chunks, and the rank of column k on a host
works for the ranks of that host with the places k, k + K, k + 2 K, ...: with as many ranks on every host, for itself.

    1. From its neighbours' memory it adds, in all chunks for which its column works, their vectors to its own.
    2. Reduce-scatter around the ring of its column, H - 1 steps: the chunks for which it works are whole.
    3. All-gather around that ring, H - 1 steps: all chunks for which its column works are whole.
    4. These it writes into its neighbours' memory.

Fences of the ranks of a host before 1 and after 4. Chunks travel in m pieces (1 if they are short), two under way at
a time, so that the link is busy while a rank adds, and from 2 on to 3. For H hosts with L ranks each and n bytes

    messages a rank = 2 (H - 1) m,   bytes a rank = 2 n (H - 1) / P,   P = H L,
    bytes of neighbours' memory that it reads = n (L - 1) / L, and, for an all-reduce, writes as many

so over a host's link go 2 n (H - 1) / H bytes each way, the least possible; a flat ring over ranks that are placed host
by host sends 2 n (P - 1) / P, over ranks placed in turn L times as much. The sum of a chunk is made in one place, so
all ranks hold the same bits. On one host this is `shared`, with one rank a host `ring`. A vector outside of shared
memory takes the flat ring. What is encoded is what goes over the links; inside a host all is added as it is.
Source: Cho et al. 2019, "BlueConnect" (MLSys), with shared memory for what its inner level sends.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise, zip_longest

import numpy as np

from mpidp.arrays import Array, address
from mpidp.collectives import ring, shared
from mpidp.collectives.wire import Bytes, Plain, Wire
from mpidp.comm import Algorithm, Communicator, Steps
from mpidp.comm.communicator import Pending

PIECE, MOST = 1 << 14, 16
"""Chunks are cut into pieces of about so many elements, where that makes at least three, and into so many at most."""


@dataclass(frozen=True)
class Work:
    """What one rank does, of a vector of n elements over ranks on these hosts."""

    host: int
    place: int
    members: tuple[int, ...]  # the ranks of its host, by place
    columns: int
    right: int  # its column's ranks on the next host and on the one before
    left: int
    pieces: tuple[tuple[slice, ...], ...]  # by host: of the chunks for which its column works there
    under_way: int  # how many pieces travel at a time


@lru_cache(256)
def work(n: int, hosts: tuple[int, ...], rank: int) -> Work:
    """hosts: of each rank, as `Communicator.hosts` gives them."""
    members = [tuple(r for r, h in enumerate(hosts) if h == host) for host in range(max(hosts) + 1)]
    columns = min(len(ranks) for ranks in members)
    host, count = hosts[rank], pieces_of(n, len(hosts))
    place = members[host].index(rank)
    if place < columns:
        right, left = (members[(host + way) % len(members)][place] for way in (1, -1))
        workers = [ranks[place::columns] for ranks in members]
    else:
        right, left, workers = rank, rank, [() for _ in members]
    pieces = tuple(tuple(p for r in owners for p in cut(n, len(hosts), r, count)) for owners in workers)
    return Work(host, place, members[host], columns, right, left, pieces, min(count, 2))


def pieces_of(n: int, size: int) -> int:
    """In how many pieces a chunk travels: of three or more, two fit into `scratch`."""
    chunk = -(-n // size)
    return min(chunk // PIECE, MOST) if chunk >= 3 * PIECE else 1


def bounds(n: int, size: int) -> list[int]:
    """The grid of the pieces of all chunks."""
    return [0, *(piece.stop for i in range(size) for piece in cut(n, size, i, pieces_of(n, size)))]


def cut(n: int, size: int, i: int, count: int) -> list[slice]:
    """Chunk i of `size` in `count` pieces that differ by one at most."""
    chunk = ring.chunk(n, size, i)
    bounds = [chunk.start + j * (chunk.stop - chunk.start) // count for j in range(count + 1)]
    return [slice(lo, hi) for lo, hi in pairwise(bounds)]


@Algorithm
def allreduce(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer ← Σ over ranks of buffer, the same bits on every rank; `scratch` of ceil(n / P) elements or more."""
    if buffer.size == 0:
        return
    vectors = comm.local().shared_parts(buffer)
    if vectors is None:
        yield from ring.allreduce.steps(comm, buffer, scratch, tag)
        return
    mine = work(buffer.size, comm.hosts(), comm.rank)
    yield (comm.local().Ifence(),)
    yield from around(comm, mine, Plain(buffer, scratch, mine.under_way), vectors, tag)
    yield (comm.local().Ifence(),)


@Algorithm
def reduce_scatter(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer[chunk r] ← Σ over ranks of buffer[chunk r]; nobody may write its buffer before `all_gather` is done."""
    if buffer.size == 0:
        return
    if comm.local().shared_parts(buffer) is None:
        yield from ring.reduce_scatter.steps(comm, buffer, scratch, tag)
        return
    under_way = work(buffer.size, comm.hosts(), comm.rank).under_way
    yield from coded_reduce_scatter.steps(comm, Plain(buffer, scratch, under_way), tag)


@Algorithm
def all_gather(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
    """All ranks see what each has written into its chunk of a vector that a host has once (`allocate_common`)."""
    yield from coded_all_gather.steps(comm, Plain(buffer), tag)


@Algorithm
def coded_reduce_scatter(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """`reduce_scatter` over any wire between the hosts, for a vector in shared memory; another takes the flat ring."""
    if wire.size == 0:
        return
    vectors = comm.local().shared_parts(wire.vector)
    if vectors is None:
        yield from ring.coded_reduce_scatter.steps(comm, wire, tag)
        return
    mine = work(wire.size, comm.hosts(), comm.rank)
    yield (comm.local().Ifence(),)
    yield from around(comm, mine, wire, vectors, tag, hand_out=False)
    if mine.columns < len(vectors):  # somebody here works for others as well
        if mine.place < mine.columns:
            for place in range(mine.place + mine.columns, len(vectors), mine.columns):
                theirs = ring.chunk(wire.size, comm.size, mine.members[place])
                shared.write(comm, wire.vector, theirs, [vectors[place]])
        yield (comm.local().Ifence(),)


@Algorithm
def coded_all_gather(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """What this rank works for is handed out between the hosts over any wire, and to its neighbours through memory."""
    if wire.size == 0:
        return
    vectors = comm.local().shared_parts(wire.vector)
    if vectors is None:
        yield from ring.coded_all_gather.steps(comm, wire, tag)
        return
    mine = work(wire.size, comm.hosts(), comm.rank)
    yield (comm.local().Ifence(),)
    yield from around(comm, mine, wire, vectors, tag, reduce=False)
    yield (comm.local().Ifence(),)


def around(
    comm: Communicator, mine: Work, wire: Wire, vectors: list[Array], tag: int,
    reduce: bool = True, hand_out: bool = True,
) -> Steps:  # fmt: skip
    """The ring of our column over H hosts: in steps 1 .. H - 1 it adds up, in steps H .. 2 H - 2 it hands out.

    What is to be added up comes from all `vectors` of this host into ours; what is handed out is written to those of
    the others, too, when we send it on.
    """
    hosts, turn, ours = len(mine.pieces), 0, wire.vector
    others = [v for place, v in enumerate(vectors) if place != mine.place and address(v) != address(ours)]
    started: deque[tuple[list[Pending], Callable[[], None] | None]] = deque()
    if reduce and hosts == 1:
        for piece in mine.pieces[0]:
            shared.add(comm, vectors, mine.place, piece, [])
    for step in range(1 if reduce else hosts, 2 * hosts - 1 if hand_out else hosts):
        outgoing, incoming = (mine.pieces[(mine.host - i) % hosts] for i in (step, step + 1))
        for out, into in zip_longest(outgoing, incoming):  # a host with more ranks has more pieces
            if len(started) == mine.under_way:
                yield from settle(*started.popleft())
            messages, then = [], None
            if into is not None and step < hosts:
                landed = wire.landing(into, turn)
                messages.append(comm.Irecv(landed, mine.left, tag))
                then = partial(wire.add, into, landed)
            elif into is not None:
                messages.append(comm.Irecv(wire.home(into), mine.left, tag))
                then = partial(wire.place, into)
            if out is not None:
                if step == 1:
                    shared.add(comm, vectors, mine.place, out, [])
                send = wire.partial if step < hosts else wire.whole if step == hosts else wire.home
                messages.append(comm.Isend(send(out), mine.right, tag))
                if step >= hosts:
                    shared.write(comm, ours, out, others)
            if into is not None and step < hosts:
                shared.add(comm, vectors, mine.place, into, [])
            started.append((messages, then))
            turn = (turn + 1) % mine.under_way
    while started:
        yield from settle(*started.popleft())
    if hand_out:
        for piece in mine.pieces[(mine.host + 1) % hosts]:  # the last to come, or on one host all
            if hosts == 1:
                wire.whole(piece)
            shared.write(comm, ours, piece, others)


def settle(messages: list[Pending], then: Callable[[], None] | None) -> Steps:
    yield messages
    if then is not None:
        then()


def allocate(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """A vector of ours that the others on this host can read and write."""
    return shared.allocate(comm.local(), n, dtype)


def allocate_common(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """One vector for all ranks of this host, which `all_gather` makes equal to those of the other hosts."""
    return shared.allocate_common(comm.local(), n, dtype)


def cost(n: int, hosts: Sequence[int], rank: int, nbytes: Bytes) -> tuple[int, int]:
    """(messages, bytes) that `rank` sends in one all-reduce of n elements."""
    (messages, partial), (more, whole) = (
        scatter_cost(n, hosts, rank, nbytes),
        gather_cost(n, hosts, rank, nbytes),
    )
    return messages + more, partial + whole


def scatter_cost(n: int, hosts: Sequence[int], rank: int, nbytes: Bytes) -> tuple[int, int]:
    """The same for a reduce-scatter."""
    return all_but(0, n, hosts, rank, nbytes)


def gather_cost(n: int, hosts: Sequence[int], rank: int, nbytes: Bytes) -> tuple[int, int]:
    """The same for an all-gather."""
    return all_but(1, n, hosts, rank, nbytes)


def all_but(ahead: int, n: int, hosts: Sequence[int], rank: int, nbytes: Bytes) -> tuple[int, int]:
    """All pieces of the column but those of the host that lies so far ahead of ours on the ring."""
    if n == 0:
        return 0, 0
    mine = work(n, tuple(hosts), rank)
    skip = (mine.host + ahead) % len(mine.pieces)
    sent = [p for i, pieces in enumerate(mine.pieces) if i != skip for p in pieces]
    return len(sent), sum(nbytes(p.stop - p.start) for p in sent)


def shared_bytes(n: int, hosts: Sequence[int], rank: int, itemsize: int) -> int:
    """Bytes of its neighbours' memory that `rank` reads and writes in one all-reduce of n elements."""
    if n == 0:
        return 0
    mine = work(n, tuple(hosts), rank)
    worked = elements([piece for pieces in mine.pieces for piece in pieces])
    return 2 * (len(mine.members) - 1) * worked * itemsize


def elements(pieces: Sequence[slice]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)


def alike(comm: Communicator) -> str | None:
    """The route that does the same with these hosts, which `auto` need not try twice; else None."""
    ranks = [comm.hosts().count(host) for host in set(comm.hosts())]
    return "shared" if len(ranks) == 1 else "ring" if max(ranks) == 1 else None
