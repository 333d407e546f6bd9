"""The measurement of one size in `benchmarks/collectives.py`: all contestants take turns in every round."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.bandwidth import algorithm_bandwidth, bus_bandwidth, count
from benchmarks.contestants import TYPE, Contestant, contestants
from mpidp.comm import Communicator
from mpidp.comm.waiting import LONG_SPIN
from mpidp.errors import RunError

BATCH, LONGEST_BATCH = 4 << 20, 64  # bytes, calls
BLOCK = 1 << 18  # elements that are checked at a time
UNTIL_THEY_SLEEP = 2 * LONG_SPIN  # seconds


def copy(to: np.ndarray, other: np.ndarray) -> None:
    np.copyto(to, other)


def add(to: np.ndarray, other: np.ndarray) -> None:
    np.add(to, other, to)


MEMORY: dict[str, tuple[Callable[[np.ndarray, np.ndarray], None], int, bool]] = {
    "copy_one_rank": (copy, 2, True),
    "copy_all_ranks": (copy, 2, False),
    "add_one_rank": (add, 3, True),
    "add_all_ranks": (add, 3, False),
}
"""A pass over memory, how many vectors it reads and writes, and whether rank 0 makes it alone."""


def calls_in_a_batch(size: int, ranks: int) -> int:
    """How many calls are timed as one: several where a call is as short as a clock's and a barrier's own noise.

    At most 100 / lg P: each call in place multiplies the vector by up to P, and float32 ends at 2^128.
    """
    return max(1, min(BATCH // size, LONGEST_BATCH, int(100 / np.log2(ranks))))


def vector(rank: int, n: int) -> np.ndarray:
    """Rank `rank`'s numbers: normally distributed, so that their exponents differ and their sums must be rounded."""
    return np.random.default_rng([rank, n]).standard_normal(n, TYPE)


class Turns:
    """`run` gives what every contestant, and memory, reaches with vectors of about `size` bytes."""

    def __init__(self, comm: Communicator, size: int, routes: Sequence[str], gloo: Any):
        self.comm = comm
        self.n = max(size // TYPE.itemsize // comm.size, 1) * comm.size  # equal parts, as in nccl-tests
        self.size = self.n * TYPE.itemsize
        self.calls = calls_in_a_batch(self.size, comm.size)
        self.contestants = contestants(comm, self.n, routes, gloo)
        self.errors = [0.0] * len(self.contestants)
        self.data = vector(comm.rank, self.n)
        self.sum, largest = np.zeros(self.n), 0.0
        for rank in range(comm.size):
            theirs = vector(rank, self.n)
            self.sum += theirs
            largest += float(np.abs(theirs).max())
        self.rounding = (comm.size - 1) * 2.0**-24 * largest  # of P - 1 sums that are no larger than this
        self.scratch = np.zeros(self.n, TYPE)

    def run(self, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The contestants' results, and memory's bandwidths in GB/s. Raises RunError where a sum is wrong."""
        seconds: list[list[float]] = [[] for _ in self.contestants]
        passes: dict[str, list[float]] = {name: [] for name in MEMORY}
        self.check_all()  # these first calls also open connections
        for turn in range(rounds):
            for i in np.random.default_rng(turn).permutation(len(self.contestants)):  # the same on all ranks
                seconds[i].append(self.batch(self.contestants[i]))
            for name in MEMORY:
                passes[name].append(self.memory(name))
        self.check_all()
        return self.results(seconds), self.bandwidths(passes)

    def check_all(self) -> None:
        for i, contestant in enumerate(self.contestants):
            self.errors[i] = max(self.errors[i], self.check(contestant))

    def check(self, contestant: Contestant) -> float:
        """The largest absolute error of one call. Raises RunError where it is more than rounding."""
        contestant.buffer[...] = self.data
        self.start()
        contestant.call()
        expected = self.sum[contestant.part]
        errors = [
            np.abs(contestant.result[i : i + BLOCK] - expected[i : i + BLOCK]).max()
            for i in range(0, expected.size, BLOCK)
        ]
        self.comm.Barrier()
        error = float(np.max(errors))
        if not error <= self.rounding:
            raise RunError(
                f"{contestant.operation} by {contestant.name} of {self.size} bytes is wrong by {error:.3g} on rank "
                f"{self.comm.rank}, and rounding explains no more than {self.rounding:.3g}: its speed means nothing"
            )
        return error

    def batch(self, contestant: Contestant) -> float:
        """Seconds a call, on this rank."""
        contestant.buffer[...] = self.data
        self.start()
        began = time.perf_counter()
        for _ in range(self.calls):
            contestant.call()
        seconds = (time.perf_counter() - began) / self.calls
        self.comm.Barrier()  # a peer may still read our buffer
        return seconds

    def memory(self, name: str) -> float:
        """Seconds a pass over memory, on this rank; 0 where rank 0 makes it while this one sleeps."""
        a_pass, _, alone = MEMORY[name]
        seconds = 0.0
        if not alone:
            self.start()
        elif self.comm.rank == 0:
            time.sleep(UNTIL_THEY_SLEEP)
        if not alone or self.comm.rank == 0:
            began = time.perf_counter()
            for _ in range(self.calls):
                a_pass(self.scratch, self.data)
            seconds = (time.perf_counter() - began) / self.calls
        self.comm.Barrier()
        return seconds

    def start(self) -> None:
        """Let all ranks go at once: our barrier waits without burning a core, the library's wakes all within a µs."""
        self.comm.Barrier()
        self.comm.comm.Barrier()

    def results(self, seconds: list[list[float]]) -> list[dict[str, Any]]:
        everyone = self.comm.allgather([seconds, self.errors])
        found = []
        for i, one in enumerate(self.contestants):
            slowest = np.array([theirs[i] for theirs, _ in everyone]).max(0)
            p10, median, p90 = (float(q) for q in np.percentile(slowest, [10, 50, 90]))
            found.append(
                {
                    "operation": one.operation,
                    "route": one.name,
                    "ours": one.ours,
                    "size_bytes": self.size,
                    "count": count(one.operation, self.n, self.comm.size),
                    "type": TYPE.name,
                    "time_us": {"median": median * 1e6, "p10": p10 * 1e6, "p90": p90 * 1e6},
                    "algbw_gb_per_s": algorithm_bandwidth(self.size, median),
                    "busbw_gb_per_s": bus_bandwidth(one.operation, self.size, median, self.comm.size),
                    "error": max(errors[i] for _, errors in everyone),
                    "calls_in_a_batch": self.calls,
                    "rounds_us": [round(float(s) * 1e6, 3) for s in slowest],
                }
            )
        return found

    def bandwidths(self, passes: dict[str, list[float]]) -> dict[str, Any]:
        """GB/s read and written, all ranks that took part together."""
        everyone = self.comm.allgather(passes)
        found: dict[str, Any] = {"size_bytes": self.size}
        for name, (_, streams, alone) in MEMORY.items():
            slowest = np.array([theirs[name] for theirs in everyone]).max(0)
            moved = self.size * streams * (1 if alone else self.comm.size)
            found[name] = moved / float(np.median(slowest)) / 1e9
        return found
