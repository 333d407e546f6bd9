"""Routes: by which messages, or through which memory, sums over ranks are made. One algorithm a file, one line here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mpidp.arrays import Array, zeros
from mpidp.collectives import halving_doubling as halving
from mpidp.collectives import hierarchical, library, pairwise, ring, shared, tree
from mpidp.collectives.broadcast import broadcast
from mpidp.collectives.wire import Bytes, Landing, chunk, chunk_bounds, one_chunk
from mpidp.comm import Algorithm, Communicator

__all__ = ["AUTO", "COLLECTIVES", "Collective", "Cost", "broadcast"]

Cost = Callable[[int, Sequence[int], int, Bytes], tuple[int, int]]
Allocate = Callable[[Communicator, int, np.dtype], Array]


def private(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """A vector of n zeros in this rank's own memory, on the host or on its device."""
    return zeros(comm.xp, n, dtype)


def anywhere(comm: Communicator, dtype: np.dtype) -> str | None:
    return None


def addable(comm: Communicator, dtype: np.dtype) -> str | None:
    return None if dtype in (np.float32, np.float64) else f"the MPI library cannot add {dtype}"


def on_one_host(comm: Communicator, dtype: np.dtype) -> str | None:
    if not comm.on_one_host():
        return "the ranks are on several hosts, which share no memory"
    return within_hosts(comm, dtype)


def within_hosts(comm: Communicator, dtype: np.dtype) -> str | None:
    """Whether the ranks of a host reach each other's vectors, where these lie."""
    if comm.xp is not np and dtype not in (np.float32, np.float64):
        return f"in memory of GPUs it does not add {dtype}"
    reason = comm.unshared()
    return reason and f"the ranks do not reach each other's GPU memory: {reason}"


def of_size(cost: Callable[[int, int, int, Bytes], tuple[int, int]]) -> Cost:
    """A cost that depends on the number of ranks, wherever they are."""
    return lambda n, hosts, rank, nbytes: cost(n, len(hosts), rank, nbytes)


def unlike_others(comm: Communicator) -> str | None:
    return None


@dataclass(frozen=True)
class Collective:
    """A route.

    allreduce(comm, buffer, scratch, tag): sums in place, with `scratch(n, P)` elements of memory at hand.
    reduce_scatter(comm, buffer, scratch, tag) leaves on each rank the sum of its `part(n, P, rank)`; all_gather(comm,
    buffer, tag) hands out what each rank has in its part; None where a route has no such halves.
    cost(n, hosts, rank, nbytes): (messages, bytes) that a rank sends in one all-reduce, `hosts` as
    `Communicator.hosts` gives them; scatter_cost and gather_cost: in one reduce-scatter, and in one all-gather.
    allocate(comm, n, dtype): memory from which this route sums; allocate_common: memory for a vector that is equal on
    all ranks. unable(comm, dtype): why it cannot be taken, or None. lanes: how many all-reduces, of parts of one vector
    and with different tags, may be under way side by side; 0 where nothing is gained by computing meanwhile.
    alike(comm): the name of another route that does the same where these ranks are, so that `auto` need not try both;
    else None.

    coded_reduce_scatter(comm, wire, tag) and coded_all_gather(comm, wire, tag): the two halves over any wire; None
    where no message is sent that could be encoded. One after the other they are the all-reduce, at the same `cost`.
    bounds(n, P): the grid by which they cut a vector. landing: how they use the memory in which partial sums land.
    direct: whether what a rank sends in the first half is its own contribution, and never a sum on its way.
    """

    name: str
    allreduce: Algorithm
    reduce_scatter: Algorithm | None
    all_gather: Algorithm | None
    cost: Cost
    scatter_cost: Cost | None
    gather_cost: Cost | None
    allocate: Allocate = private
    allocate_common: Allocate = private
    unable: Callable[[Communicator, np.dtype], str | None] = anywhere
    lanes: int = 0
    alike: Callable[[Communicator], str | None] = unlike_others
    part: Callable[[int, int, int], slice] = chunk
    coded_reduce_scatter: Algorithm | None = None
    coded_all_gather: Algorithm | None = None
    bounds: Callable[[int, int], Sequence[int]] = chunk_bounds
    landing: Landing = one_chunk
    direct: bool = False

    def scratch(self, n: int, size: int) -> int:
        """Elements of the scratch memory for sums of n elements over `size` ranks."""
        slots, longest = self.landing(n, size)
        return slots * longest


AUTO = "auto"
LANES = 16  # while one bucket waits for a rank that computes, others keep the link busy
COLLECTIVES = {
    route.name: route
    for route in (
        Collective(
            "ring", ring.allreduce, ring.reduce_scatter, ring.all_gather,
            of_size(ring.cost), of_size(ring.scatter_cost), of_size(ring.gather_cost),
            lanes=LANES, coded_reduce_scatter=ring.coded_reduce_scatter, coded_all_gather=ring.coded_all_gather,
        ),
        Collective(
            "halving-doubling", halving.allreduce, halving.reduce_scatter, halving.all_gather,
            of_size(halving.cost), of_size(halving.scatter_cost), of_size(halving.gather_cost),
            lanes=LANES, part=halving.part, landing=halving.landing,
            coded_reduce_scatter=halving.coded_reduce_scatter, coded_all_gather=halving.coded_all_gather,
        ),
        Collective(
            "tree", tree.allreduce, None, None, of_size(tree.cost), None, None,
            lanes=LANES, bounds=tree.bounds, landing=tree.landing,
            coded_reduce_scatter=tree.coded_reduce_scatter, coded_all_gather=tree.coded_all_gather,
        ),
        Collective(
            "pairwise", pairwise.allreduce, pairwise.reduce_scatter, pairwise.all_gather,
            of_size(pairwise.cost), of_size(pairwise.scatter_cost), of_size(pairwise.gather_cost),
            lanes=LANES, coded_reduce_scatter=pairwise.coded_reduce_scatter,
            coded_all_gather=pairwise.coded_all_gather, direct=True,
        ),
        Collective(
            "shared", shared.allreduce, shared.reduce_scatter, shared.all_gather,
            of_size(shared.cost), of_size(shared.cost), of_size(shared.cost),
            shared.allocate, shared.allocate_common, on_one_host,
        ),
        Collective(
            "hierarchical", hierarchical.allreduce, hierarchical.reduce_scatter, hierarchical.all_gather,
            hierarchical.cost, hierarchical.scatter_cost, hierarchical.gather_cost,
            hierarchical.allocate, hierarchical.allocate_common, within_hosts,
            lanes=1, alike=hierarchical.alike,  # one: all ranks of a host must come to its barriers in one order
            bounds=hierarchical.bounds, coded_reduce_scatter=hierarchical.coded_reduce_scatter,
            coded_all_gather=hierarchical.coded_all_gather,
        ),
        Collective(
            "mpi", library.allreduce, library.reduce_scatter, library.all_gather,
            of_size(library.cost), of_size(library.cost), of_size(library.gather_cost), unable=addable, lanes=LANES,
        ),
    )
}  # fmt: skip
