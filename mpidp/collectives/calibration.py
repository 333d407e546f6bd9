"""How long sums of several sizes take by every route with these ranks: measured, or known from a file."""

import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpidp.arrays import finish
from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator

FORMAT = "mpidp calibration 1"
SIZES = (4 << 10, 32 << 10, 256 << 10, 2 << 20, 16 << 20)
"""Bytes of the vectors; beyond the largest the order of routes no longer changes."""


@dataclass(frozen=True)
class Calibration:
    """seconds[route][i]: of one all-reduce of sizes[i] bytes, in ascending order.

    It is of use to ranks that are on hosts in the same way, with the same MPI library, for the same type of elements.
    """

    hosts: tuple[int, ...]  # of each rank, as `Communicator.hosts` gives them
    library: str
    dtype: str
    sizes: tuple[int, ...]
    seconds: dict[str, tuple[float, ...]]

    def one(self, route: str, nbytes: int) -> float:
        """Seconds of one all-reduce of so many bytes: on a line between logarithms; beyond the sizes in proportion.

        Below the least size it is that size's.
        """
        sizes, seconds = np.log(self.sizes), np.log(self.seconds[route])
        inside = float(np.exp(np.interp(math.log(max(nbytes, 1)), sizes, seconds)))
        return inside * max(1.0, nbytes / self.sizes[-1])

    def whole(self, route: str, nbytes: int, piece: int) -> float:
        """Seconds to sum a vector in pieces of so many bytes, by a route that gains from that; else all at once."""
        if nbytes <= piece or not COLLECTIVES[route].lanes:
            return self.one(route, nbytes)
        return nbytes / piece * self.one(route, piece)

    def fastest(self, nbytes: int) -> str:
        """The route that sums so many bytes at once in the least time."""
        return min(self.seconds, key=lambda route: self.one(route, nbytes))

    def unlike(self, comm: Communicator, dtype: np.dtype) -> str | None:
        """What it is of, where that is not what is here; else None."""
        for ours, here, text in (
            (self.hosts, comm.hosts(), "ranks on the hosts {}"),
            (self.library, comm.library, "{}"),
            (self.dtype, dtype.name, "sums of {}"),
            (sorted(self.seconds), sorted(possible(comm, dtype)), "the routes {}"),
        ):
            if ours != here:
                return text.format(ours if isinstance(ours, str) else ", ".join(map(str, ours)))
        return None

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"


def from_json(text: str) -> Calibration:
    """The calibration that `to_json` wrote. Raises ValueError, with what is wrong, for anything else."""
    try:
        table = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
        raise ValueError(f'its "format" is not "{FORMAT}"')
    try:
        found = Calibration(
            tuple(int(host) for host in table["hosts"]),
            str(table["library"]),
            str(table["dtype"]),
            tuple(int(size) for size in table["sizes"]),
            {name: tuple(float(s) for s in seconds) for name, seconds in table["seconds"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a part of it is missing or not a number ({error})") from None
    if not found.sizes or list(found.sizes) != sorted(set(found.sizes)) or found.sizes[0] < 1:
        raise ValueError("its sizes do not ascend")
    if not found.seconds:
        raise ValueError("there is no route in it")
    for name, seconds in found.seconds.items():
        if len(seconds) != len(found.sizes) or not all(0 < s < math.inf for s in seconds):
            raise ValueError(f"of {name} it has not a time for each size")
    return found


def possible(comm: Communicator, dtype: np.dtype) -> list[str]:
    """The routes that can be taken here, but those that do the same as another one here."""
    routes = COLLECTIVES.items()
    return [name for name, one in routes if one.unable(comm, dtype) is None and one.alike(comm) is None]


def measure(
    comm: Communicator, dtype: Any, sizes: Sequence[int] = SIZES, names: Sequence[str] | None = None
) -> Calibration:
    """Each route's median seconds for vectors of these sizes in bytes; on every rank the same figures.

    names: of the routes; default: all that are possible. They take turns on vectors of zeros; a round's time is its
    slowest rank's.
    """
    dtype, own = np.dtype(dtype), comm.Dup()
    names = possible(own, dtype) if names is None else names
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes:
        n = max(size // dtype.itemsize, 1)
        for name, median in medians(own, names, n, dtype, 5 if size <= 1 << 20 else 3).items():
            seconds[name].append(median)
        own.Free_shared()
    found = {name: tuple(times) for name, times in seconds.items()}
    return Calibration(own.hosts(), own.library, dtype.name, tuple(sizes), found)


def medians(
    comm: Communicator, names: Iterable[str], n: int, dtype: np.dtype, rounds: int
) -> dict[str, float]:
    routes = {name: COLLECTIVES[name] for name in names}
    scratch = comm.xp.zeros(max(route.scratch(n, comm.size) for route in routes.values()), dtype)
    buffers = {name: route.allocate(comm, n, dtype) for name, route in routes.items()}
    times: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(rounds + 1):
        for name, route in routes.items():
            comm.Barrier()
            began = time.perf_counter()
            route.allreduce(comm, buffers[name], scratch)
            finish(comm.xp)
            if turn > 0:  # the first round opens connections
                times[name].append(time.perf_counter() - began)
    everyone: list[dict[str, list[float]]] = comm.allgather(times)
    return {
        name: statistics.median(max(ours[name][i] for ours in everyone) for i in range(rounds))
        for name in routes
    }
