"""What ranks do in `test_peers.py`, as threads or as processes, with the stand-in for CuPy.

PYTHONPATH=.:tests/device mpirun -n 3 python -m tests.device.ranks routes halves
PYTHONPATH=.:tests/device python -m tests.device.ranks --threads 3 routes halves
"""

import argparse
import sys
from functools import partial

import cupy
import numpy as np

from mpidp.arrays import to_host
from mpidp.collectives import COLLECTIVES, shared
from mpidp.collectives.wire import chunk, plain_bytes
from mpidp.comm import run_ranks, staging
from mpidp.comm.staging import StagedCommunicator
from mpidp.comm.world import guarded
from tests import conformance

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
LENGTHS = (0, 1, 7, 1001, 20011)  # short and long, with chunks that begin anywhere


def numbers(rank, n, dtype):
    return np.random.default_rng([rank, n]).normal(size=n).astype(dtype)


def total(comm, n, dtype, name="shared"):
    """The sum, of which every rank is to have the bits that it has on the host: of chunk r from rank r on."""
    found, ranks = np.empty(n, dtype), range(comm.size)
    everyone = [numbers(rank, n, dtype) for rank in ranks]
    for first in ranks:
        order = (
            ranks if name == "shared" and n * comm.size <= shared.SHORT else [*ranks[first:], *ranks[:first]]
        )
        found[chunk(n, comm.size, first)] = sum(everyone[rank][chunk(n, comm.size, first)] for rank in order)
    return found


def routes(comm):
    """Sums in peers' memory: in rank order, with the traffic of the formulas, again and again."""
    for name in ("shared", "hierarchical"):
        route = COLLECTIVES[name]
        for n in LENGTHS:
            for dtype in (F4, F8):
                assert route.unable(comm, dtype) is None
                buffer = route.allocate(comm, n, dtype)
                scratch = cupy.empty(route.scratch(n, comm.size), dtype)
                for _ in range(3):
                    buffer.set(numbers(comm.rank, n, dtype))
                    before = comm.traffic.copy()
                    route.allreduce(comm, buffer, scratch)
                    sent = comm.traffic - before
                    cost = route.cost(n, comm.hosts(), comm.rank, plain_bytes(dtype))
                    assert (sent.messages, sent.bytes, sent.staged_bytes) == (*cost, 0)
                    assert (to_host(buffer) == total(comm, n, dtype, name)).all()
                    comm.Barrier()
        comm.Free_shared()


def halves(comm):
    """A reduce-scatter, and an all-gather of what each rank then writes, into vectors that each rank has."""
    route = COLLECTIVES["shared"]
    for n in LENGTHS:
        grads, params = route.allocate(comm, n, F4), route.allocate_common(comm, n, F4)
        mine = route.part(n, comm.size, comm.rank)
        for turn in (1, 2):
            grads.set(numbers(comm.rank, n, F4))
            before = comm.traffic.copy()
            route.reduce_scatter(comm, grads, cupy.empty(route.scratch(n, comm.size), F4))
            params[mine] = grads[mine] * F4.type(turn)
            route.all_gather(comm, params)
            expected = 4 * (mine.stop - mine.start) * (comm.size - 1) * 2
            assert (comm.traffic - before).shared_bytes == expected
            assert (to_host(params) == total(comm, n, F4, "halves") * turn).all()
            comm.Barrier()
    comm.Free_shared()


def unsynchronised(comm):
    """Where a stream does not wait for the others' events, it reads what is not there yet: seen as a race."""
    from cupy.streams import Race

    route = COLLECTIVES["shared"]
    for n in (1001, 20011):
        buffer = route.allocate(comm, n, F4)
        buffer.fill(1)
        theirs, comm.peers.theirs = comm.peers.theirs, [[], []]
        try:
            route.allreduce(comm, buffer, cupy.empty(0, F4))
            raced = False
        except Race:
            raced = True
        comm.peers.theirs = theirs
        assert raced
        comm.Barrier()


def refused(comm):
    """A GPU that one rank cannot reach: none of them does, all know why, and messages sum as well."""
    runtime = cupy.cuda.runtime
    opens = runtime.ipcOpenMemHandle
    if comm.rank == 1:

        def refuse(handle, flags=1):
            raise runtime.CUDARuntimeError(
                217, "cudaErrorPeerAccessUnsupported: peer access is not supported"
            )

        runtime.ipcOpenMemHandle = refuse
    why = COLLECTIVES["shared"].unable(comm, F4)
    assert "rank 1 cannot open the others' memory (cudaErrorPeerAccessUnsupported" in why
    assert comm.allgather(why) == [why] * comm.size and comm.unshared() in comm.about
    assert comm.Dup().unshared() in why
    runtime.ipcOpenMemHandle = opens
    buffer = cupy.asarray(numbers(comm.rank, 100, F8))
    COLLECTIVES["ring"].allreduce(comm, buffer, cupy.empty(100, F8))
    assert np.allclose(to_host(buffer), total(comm, 100, F8), rtol=1e-12)


def given_back(comm):
    """Memory is taken outside of the pool, whose limit is lower meanwhile; handles are closed."""
    from cupy import ipc

    pool = cupy.get_default_memory_pool()
    pool.set_limit(size=1 << 30)
    others = len(ipc.opened)
    for _ in range(3):
        vectors = comm.Allocate_shared(100, np.float32)
        comm.Barrier()
        assert pool.get_limit() == (1 << 30) - (2 << 20)
        assert len(ipc.opened) - others == 3 * (comm.size - 1)  # a vector and two events of each
        del vectors
        comm.Free_shared()
        assert pool.get_limit() == 1 << 30 and len(ipc.opened) == others


def pieces(comm):
    """Long messages in pieces: the sums, and the count of messages, that they have as one."""
    staging.PIECE = 256
    for name in ("ring", "pairwise", "mpi"):
        route, n = COLLECTIVES[name], 1001
        buffer = cupy.asarray(numbers(comm.rank, n, F8))
        scratch = cupy.empty(route.scratch(n, comm.size), F8)
        before = comm.traffic.copy()
        route.allreduce(comm, buffer, scratch)
        sent = comm.traffic - before
        assert (sent.messages, sent.bytes) == route.cost(n, comm.hosts(), comm.rank, plain_bytes(F8))
        assert np.allclose(to_host(buffer), total(comm, n, F8), rtol=1e-12, atol=1e-15)
        buffer.set(numbers(comm.rank, n, F8))
        route.reduce_scatter(comm, buffer, scratch)
        route.all_gather(comm, buffer)
        assert np.allclose(to_host(buffer), total(comm, n, F8), rtol=1e-12, atol=1e-15)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    sent, received = cupy.full(300, comm.rank), np.empty(300, np.int64)  # from the device to another's host
    comm.Wait(comm.Isend(sent, right), comm.Irecv(received, left))
    assert (received == left).all()


def contracts(comm):
    """Strategies that sum by routes keep their contracts in peers' memory."""
    for name in ("allreduce", "sharded", "averaging"):
        for contract in (
            partial(conformance.equals_one_process, steps=10),
            conformance.sends_what_the_formula_says,
            conformance.resumes_with_the_same_bits,
        ):
            contract(comm, name, 0, collective="shared")


def over_hosts(comm):
    """By the route that is made for several hosts."""
    route = COLLECTIVES["hierarchical"]
    for n in LENGTHS:
        buffer = route.allocate(comm, n, F8)
        scratch = cupy.empty(route.scratch(n, comm.size), F8)
        buffer.set(numbers(comm.rank, n, F8))
        before = comm.traffic.copy()
        route.allreduce(comm, buffer, scratch)
        sent = comm.traffic - before
        assert (sent.messages, sent.bytes) == route.cost(n, comm.hosts(), comm.rank, plain_bytes(F8))
        assert np.allclose(to_host(buffer), total(comm, n, F8), rtol=1e-12, atol=1e-15)
    for name in ("allreduce", "sharded"):
        conformance.equals_one_process(comm, name, 0, collective="hierarchical", steps=10)
        conformance.resumes_with_the_same_bits(comm, name, 0, collective="hierarchical")


def body(names, comm):
    for name in names:
        with cupy.cuda.Stream(non_blocking=True):
            globals()[name](StagedCommunicator(comm.Dup(), cupy))
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--hosts", type=lambda text: [int(host) for host in text.split(",")])
    options = parser.parse_args()
    if options.threads is None:
        return guarded(partial(body, options.names))
    run_ranks(options.threads, partial(body, options.names), hosts=options.hosts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
