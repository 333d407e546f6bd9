"""Routes: by which messages a sum over ranks is made. One algorithm a file, one line here.

A route is `allreduce(comm, buffer, scratch)` with `cost(n, size, rank, itemsize) -> (messages, bytes)`.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpidp.arrays import Array, array_module
from mpidp.collectives import library, ring
from mpidp.collectives.broadcast import broadcast
from mpidp.comm import Communicator

__all__ = ["AUTO", "COLLECTIVES", "Collective", "broadcast", "fastest"]


@dataclass(frozen=True)
class Collective:
    """A route with its name and its cost."""

    name: str
    allreduce: Callable[[Communicator, Array, Array], None]
    cost: Callable[[int, int, int, int], tuple[int, int]]


AUTO = "auto"
COLLECTIVES = {
    "ring": Collective("ring", ring.allreduce, ring.cost),
    "mpi": Collective("mpi", library.allreduce, library.cost),
}


def fastest(comm: Communicator, n: int, like: Array, rounds: int = 5) -> tuple[str, dict[str, float]]:
    """The route that is fastest here for n elements of `like`'s type, and each route's median seconds.

    The routes take turns on a vector of zeros of at most 16 MiB (above that the order no longer changes); a
    round's time is its slowest rank's. All ranks get rank 0's answer, so that they take the same route.
    """
    xp = array_module(like)
    n = min(n, (16 << 20) // like.dtype.itemsize)
    buffer, scratch = xp.zeros(n, like.dtype), xp.zeros(n, like.dtype)
    able = {name: route for name, route in COLLECTIVES.items() if name != "mpi" or like.dtype.itemsize >= 4}
    times: dict[str, list[float]] = {name: [] for name in able}
    for turn in range(rounds + 1):
        for name, route in able.items():
            comm.Barrier()
            began = time.perf_counter()
            route.allreduce(comm, buffer, scratch)
            if turn > 0:  # the first round opens connections
                times[name].append(time.perf_counter() - began)
    everyone: list[dict[str, list[float]]] = comm.allgather(times)
    medians: dict[str, Any] = {
        name: statistics.median(max(ours[name][i] for ours in everyone) for i in range(rounds))
        for name in able
    }
    return min(medians, key=medians.__getitem__), medians
