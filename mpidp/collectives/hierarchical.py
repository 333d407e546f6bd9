"""Sums over several hosts with several ranks each: shared memory inside a host, rings between the hosts.

A rank's place is its number among the ranks of its host. With K the smallest number of ranks of any host, the ranks
of place k < K, one on each host, are column k. The vector is cut into P chunks, and the rank of column k on a host
works for the ranks of that host with the places k, k + K, k + 2 K, ...: with as many ranks on every host, for itself.

    1. From its neighbours' memory it adds, in all chunks for which its column works, their vectors to its own.
    2. Reduce-scatter around the ring of its column, H - 1 steps: the chunks for which it works are whole.
    3. All-gather around that ring, H - 1 steps: all chunks for which its column works are whole.
    4. These it writes into its neighbours' memory.

Barriers of the ranks of a host before 1 and after 4. For H hosts with L ranks each and a vector of n bytes

    messages a rank = 2 (H - 1),   bytes a rank = 2 n (H - 1) / P,   P = H L,
    bytes of neighbours' memory that it reads = n (L - 1) / L, and, for an all-reduce, writes as many

so over a host's link go 2 n (H - 1) / H bytes each way, the least possible; a flat ring over ranks that are placed host
by host sends 2 n (P - 1) / P, over ranks placed in turn L times as much. The sum of a chunk is made in one place, so
all ranks hold the same bits. On one host this is `shared`, with one rank a host `ring`. A vector outside of shared
memory takes the flat ring.
Source: Cho et al. 2019, "BlueConnect" (MLSys), with shared memory for what its inner level sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from mpidp.arrays import Array
from mpidp.collectives import ring, shared
from mpidp.comm import Algorithm, Communicator, Steps


@dataclass(frozen=True)
class Work:
    """What one rank does, of a vector of n elements over ranks on these hosts."""

    host: int
    place: int
    neighbours: int  # other ranks on its host
    columns: int
    right: int  # its column's ranks on the next host and on the one before
    left: int
    chunks: tuple[
        tuple[slice, ...], ...
    ]  # for each host: those for which the column works there; empty if idle


@lru_cache(256)
def work(n: int, hosts: tuple[int, ...], rank: int) -> Work:
    """hosts: of each rank, as `Communicator.hosts` gives them."""
    members = [tuple(r for r, h in enumerate(hosts) if h == host) for host in range(max(hosts) + 1)]
    columns = min(len(ranks) for ranks in members)
    host = hosts[rank]
    place, others = members[host].index(rank), len(members[host]) - 1
    if place >= columns:
        return Work(host, place, others, columns, rank, rank, ((),) * len(members))
    right, left = (members[(host + way) % len(members)][place] for way in (1, -1))
    chunks = tuple(tuple(ring.chunk(n, len(hosts), r) for r in ranks[place::columns]) for ranks in members)
    return Work(host, place, others, columns, right, left, chunks)


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
    yield (comm.local().Ibarrier(),)
    yield from add(comm, mine, vectors, scratch, tag)
    yield from gather(comm, mine, buffer, tag, [v for i, v in enumerate(vectors) if i != mine.place])
    yield (comm.local().Ibarrier(),)


@Algorithm
def reduce_scatter(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
    """buffer[chunk r] ← Σ over ranks of buffer[chunk r]; nobody may write its buffer before `all_gather` is done."""
    if buffer.size == 0:
        return
    vectors = comm.local().shared_parts(buffer)
    if vectors is None:
        yield from ring.reduce_scatter.steps(comm, buffer, scratch, tag)
        return
    mine = work(buffer.size, comm.hosts(), comm.rank)
    yield (comm.local().Ibarrier(),)
    yield from add(comm, mine, vectors, scratch, tag)
    if mine.columns < len(vectors):  # we may have worked for others of this host, or others for us
        for owner, chunk in zip(vectors[mine.place :: mine.columns], mine.chunks[mine.host], strict=False):
            if owner is not vectors[mine.place]:
                write(comm, buffer, chunk, [owner])
        yield (comm.local().Ibarrier(),)


@Algorithm
def all_gather(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
    """All ranks see what each has written into its chunk of a vector that a host has once (`allocate_common`)."""
    if buffer.size == 0:
        return
    if comm.local().shared_parts(buffer) is None:
        yield from ring.all_gather.steps(comm, buffer, tag)
        return
    yield (comm.local().Ibarrier(),)
    yield from gather(comm, work(buffer.size, comm.hosts(), comm.rank), buffer, tag, [])
    yield (comm.local().Ibarrier(),)


def add(comm: Communicator, mine: Work, vectors: list[np.ndarray], scratch: Array, tag: int) -> Steps:
    """Our vector, in the chunks for which we work here, ← their sums over all ranks. Messages go while we add."""
    ours, hosts = vectors[mine.place], len(mine.chunks)
    for chunk in mine.chunks[mine.host - 1]:
        shared.add(comm, vectors, mine.place, chunk, [])
    for step in range(1, hosts):
        outgoing, incoming = (mine.chunks[(mine.host - i) % hosts] for i in (step, step + 1))
        for out, into in zip_longest(outgoing, incoming):  # hosts with more ranks have more chunks
            messages = []
            if into is not None:
                received = scratch[: into.stop - into.start]
                messages.append(comm.Irecv(received, mine.left, tag))
            if out is not None:
                messages.append(comm.Isend(ours[out], mine.right, tag))
            if into is not None:
                shared.add(comm, vectors, mine.place, into, [])
            yield messages
            if into is not None:
                ours[into] += received


def gather(comm: Communicator, mine: Work, buffer: Array, tag: int, receivers: list[np.ndarray]) -> Steps:
    """Our column's chunks of `buffer` ← what their workers on all hosts have; all written to `receivers` as well."""
    hosts = len(mine.chunks)
    for step in range(hosts - 1):
        outgoing, incoming = (mine.chunks[(mine.host - i) % hosts] for i in (step, step + 1))
        messages = [comm.Irecv(buffer[chunk], mine.left, tag) for chunk in incoming]
        messages += [comm.Isend(buffer[chunk], mine.right, tag) for chunk in outgoing]
        for chunk in outgoing:
            write(comm, buffer, chunk, receivers)
        yield messages
    for chunk in mine.chunks[(mine.host + 1) % hosts]:
        write(comm, buffer, chunk, receivers)


def write(comm: Communicator, buffer: Array, chunk: slice, receivers: list[np.ndarray]) -> None:
    for receiver in receivers:
        receiver[chunk] = buffer[chunk]
        comm.traffic.shared_bytes += buffer[chunk].nbytes


def allocate(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """A vector of ours that the others on this host can read and write."""
    return shared.allocate(comm.local(), n, dtype)


def allocate_common(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """One vector for all ranks of this host, which `all_gather` makes equal to those of the other hosts."""
    return shared.allocate_common(comm.local(), n, dtype)


def cost(n: int, hosts: Sequence[int], rank: int, itemsize: int) -> tuple[int, int]:
    """(messages, bytes) that `rank` sends in one all-reduce of n elements, or one reduce-scatter and one all-gather."""
    if n == 0:
        return 0, 0
    mine = work(n, tuple(hosts), rank)
    sent = [c for i, chunks in enumerate(mine.chunks) if i != mine.host for c in chunks]
    after = (mine.host + 1) % len(mine.chunks)
    sent += [c for i, chunks in enumerate(mine.chunks) if i != after for c in chunks]
    return len(sent), elements(sent) * itemsize


def shared_bytes(n: int, hosts: Sequence[int], rank: int, itemsize: int) -> int:
    """Bytes of its neighbours' memory that `rank` reads and writes in one all-reduce of n elements."""
    if n == 0:
        return 0
    mine = work(n, tuple(hosts), rank)
    chunks = [chunk for chunks in mine.chunks for chunk in chunks]
    return 2 * mine.neighbours * elements(chunks) * itemsize


def elements(chunks: Sequence[slice]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)


def alike(comm: Communicator) -> str | None:
    """The route that does the same with these hosts, which `auto` need not try twice; else None."""
    ranks = [comm.hosts().count(host) for host in set(comm.hosts())]
    return "shared" if len(ranks) == 1 else "ring" if max(ranks) == 1 else None
