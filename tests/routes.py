"""Bodies that check routes on any communicator: ranks as threads, and real ranks."""

from collections.abc import Sequence

import numpy as np

from mpidp.collectives import COLLECTIVES, broadcast
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import Communicator


def vector(rank: int, length: int, dtype) -> np.ndarray:
    """Small whole numbers: their sums are exact in every type, in any order."""
    return np.random.default_rng([rank, length]).integers(-8, 9, length).astype(dtype)


def check_route(comm: Communicator, name: str, length: int, dtype) -> None:
    route = COLLECTIVES[name]
    scratch = np.empty(route.scratch(length, comm.size), dtype)
    buffer = route.allocate(comm, length, np.dtype(dtype))
    expected = sum(vector(rank, length, np.float64) for rank in range(comm.size))
    for _ in range(2):  # twice: connections and requests are made at the first
        buffer[...] = vector(comm.rank, length, dtype)
        before = comm.traffic.copy()
        route.allreduce(comm, buffer, scratch)
        sent = comm.traffic - before
        assert (buffer.astype(np.float64) == expected).all()
        assert (sent.messages, sent.bytes) == route.cost(length, comm.hosts(), comm.rank, plain_bytes(dtype))
        comm.Barrier()  # nobody writes its next vector while another still compares
    if route.reduce_scatter is not None:
        check_sharded(comm, name, length, dtype, scratch, expected)


def check_sharded(comm: Communicator, name: str, length: int, dtype, scratch, expected) -> None:
    """Reduce-scatter of one vector, then all-gather of another into which every rank writes its chunk."""
    route = COLLECTIVES[name]
    grads = route.allocate(comm, length, np.dtype(dtype))
    params = route.allocate_common(comm, length, np.dtype(dtype))
    mine = route.part(length, comm.size, comm.rank)
    for turn in (1, 2):
        grads[...] = vector(comm.rank, length, dtype)
        before = comm.traffic.copy()
        route.reduce_scatter(comm, grads, scratch)
        params[mine] = grads[mine] * turn
        route.all_gather(comm, params)
        sent = comm.traffic - before
        assert (params.astype(np.float64) == np.float64(expected) * turn).all()
        halves = [
            cost(length, comm.hosts(), comm.rank, plain_bytes(dtype))
            for cost in (route.scatter_cost, route.gather_cost)
        ]
        assert (sent.messages, sent.bytes) == tuple(map(sum, zip(*halves, strict=True)))
        comm.Barrier()


def check_broadcast(comm: Communicator, root: int) -> None:
    buffer = np.full(5, comm.rank, np.int64)
    broadcast(comm, buffer, root)
    assert (buffer == root).all()


def check_verbs(comm: Communicator) -> None:
    """Objects, sums, barriers, splits, tags: the rest of the interface."""
    rank, size = comm.rank, comm.size
    assert comm.allgather({"rank": rank}) == [{"rank": r} for r in range(size)]
    assert comm.bcast([rank, "x"], root=size - 1) == [size - 1, "x"]
    assert comm.sum([rank, 0.5]) == [size * (size - 1) / 2, 0.5 * size]
    comm.Barrier()
    odd = comm.Split(rank % 2, -rank)
    assert odd.allgather(rank) == [r for r in reversed(range(size)) if r % 2 == rank % 2]
    twin = comm.Dup()
    right, left = (rank + 1) % size, (rank - 1) % size
    first, second, other = np.full(3, rank), np.full(3, rank + 100), np.full(3, rank + 200)
    got = [np.empty(3, np.int64) for _ in range(3)]
    # Out of order by tag, and the same tag in another communicator.
    pending = [comm.Irecv(got[1], left, 2), twin.Irecv(got[2], left, 1), comm.Irecv(got[0], left, 1)]
    sends = [comm.Isend(first, right, 1), comm.Isend(second, right, 2), twin.Isend(other, right, 1)]
    comm.Wait(*pending, *sends)
    assert [list(g) for g in got] == [[left] * 3, [left + 100] * 3, [left + 200] * 3]
    assert (twin.traffic.messages, twin.traffic.bytes) == (1, 24)


def check_waiting_for_any(comm: Communicator) -> None:
    """Where all have sent several messages, each has its turn; what is looked for stays to be received."""
    others, rounds = range(1, comm.size), 4
    if comm.rank > 0:
        comm.Wait(*[comm.Isend(np.array([comm.rank, i]), 0, 7) for i in range(rounds)])
        return
    number = np.empty(2, np.int64)
    for i in range(rounds):
        comm.Wait(*[comm.Iprobe(rank, 7) for rank in others])
        seen = set()
        for _ in others:
            rank = others[comm.Waitany([comm.Iprobe(rank, 7) for rank in others])]
            comm.Recv(number, rank, 7)
            assert number.tolist() == [rank, i]
            seen.add(rank)
        assert seen == set(others)


def check_window(comm: Communicator) -> None:
    """Every rank adds to every vector and reads them meanwhile: it sees its own, and in the end nothing is lost."""
    rank, size, rounds = comm.rank, comm.size, 20
    for dtype in (np.float32, np.float64, np.int64):
        window = comm.Allocate_window(1000 + rank, dtype)
        comm.Wait(window.Put(np.full(1000 + rank, rank, dtype), rank))
        comm.Barrier()
        before = comm.traffic.copy()
        seen = [np.empty(1000 + target, dtype) for target in range(size)]
        for done in range(1, rounds + 1):
            for target in range(size):
                more = np.full(1000 + target, 1 + rank, dtype)
                comm.Wait(window.Accumulate(more, target), window.Get(seen[target], target))
                assert (seen[target] - target >= done * (1 + rank)).all()
        sent = comm.traffic - before
        assert sent.messages == 2 * rounds * (size - 1)
        assert sent.bytes == 2 * rounds * sum(v.nbytes for target, v in enumerate(seen) if target != rank)
        comm.Barrier()
        comm.Wait(*[window.Get(vector, target) for target, vector in enumerate(seen)])
        for target, vector in enumerate(seen):
            assert (vector == target + rounds * size * (size + 1) // 2).all()
        comm.Barrier()
        window.Free()


def check_shared_memory(comm: Communicator) -> None:
    """Parts of different lengths, seen by all; given back and allocated anew."""
    for turn in range(3):
        parts = comm.Allocate_shared(comm.rank + 1, np.float64)
        assert [len(part) for part in parts] == [rank + 1 for rank in range(comm.size)]
        assert all((part == 0).all() for part in parts)
        comm.Barrier()
        parts[(comm.rank + 1) % comm.size][0] = comm.rank + turn
        comm.Barrier()
        assert [part[0] for part in parts] == [(rank - 1) % comm.size + turn for rank in range(comm.size)]
        assert comm.shared_parts(parts[comm.rank]) is parts and comm.shared_parts(np.zeros(3)) is None
        check_parts_of_shared_memory(comm)
        del parts
        comm.Free_shared()


def check_parts_of_shared_memory(comm: Communicator) -> None:
    """A slice of our vector finds the same slice of the others'."""
    vectors = comm.Allocate_shared(10, np.float32)
    vectors[comm.rank][...] = 10 * comm.rank + np.arange(10)
    comm.Barrier()
    for found, rank in zip(comm.shared_parts(vectors[comm.rank][3:7]), range(comm.size), strict=True):
        assert found.tolist() == [10 * rank + i for i in (3, 4, 5, 6)]
    comm.Barrier()


def check_hosts(comm: Communicator, hosts: Sequence[int]) -> None:
    """Ranks know where they are, and share memory with their neighbours alone."""
    assert comm.hosts() == tuple(hosts) and comm.Dup().hosts() == tuple(hosts)
    assert comm.on_one_host() == (len(set(hosts)) == 1)
    local = comm.local()
    assert local is comm.local() and local.on_one_host() and local.traffic is comm.traffic
    members = [rank for rank in range(comm.size) if hosts[rank] == hosts[comm.rank]]
    assert local.allgather(comm.rank) == members
    mine = local.Allocate_shared(3, np.float64)
    mine[local.rank][...] = comm.rank
    local.Barrier()
    assert [vector[0] for vector in mine] == members
    del mine
    comm.Free_shared()
    assert not local.windows
