"""How fast are sums of vectors on GPUs: in peers' memory, staged, by a GPU-aware MPI, and by NCCL?

    mpirun -n 2 python -m benchmarks.gpu_collectives [--sizes 4K,1M] [--rounds 7] [--out FILE]

Times are the host's, from a barrier until the device is done, and the slowest rank's. What memory moves in a sum is
compared with what it moves in a copy in the same run. The sums are checked, of whole numbers, to the last bit.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bandwidth import ALL_REDUCE, bus_bandwidth
from benchmarks.collective_tables import Sheet
from benchmarks.collectives import Parser, bytes_of, publish
from benchmarks.contestants import TYPE
from benchmarks.environment import ROOT, environment
from benchmarks.gpu_ways import NCCL, PEERS, STAGED, connect_nccl, places, ways
from benchmarks.turns import calls_in_a_batch
from mpidp.arrays import Array, finish
from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator
from mpidp.comm.world import guarded, together
from mpidp.device import CUDA, Device, opened
from mpidp.errors import RunError, UserError

SIZES = "4K,64K,1M,16M,64M,256M"
OUT = ROOT / "docs" / "results" / "gpu_collectives.json"
SECONDS = 40.0
"""After so many no further size is begun: the larger ones by staging are what takes long."""


@dataclass
class Contestant:
    """A way to sum: `call()` turns what the ranks' `buffer`s hold into their sum."""

    name: str
    buffer: Array
    call: Callable[[], object]


class Bench:
    """All contestants on the vectors of one size."""

    def __init__(self, comm: Communicator, place: Device, ways: dict[str, Communicator], nccl: Any):
        self.comm, self.xp, self.ways, self.nccl = comm, place.xp, ways, nccl

    def contestants(self, n: int) -> list[Contestant]:
        found = []
        for name, comm in self.ways.items():
            for route in ("shared",) if name == PEERS else ("ring", "pairwise", "mpi"):
                chosen = COLLECTIVES[route]
                buffer = chosen.allocate(comm, n, TYPE)
                scratch = self.xp.zeros(chosen.scratch(n, comm.size), TYPE)
                label = name if name == PEERS else f"{name}, {route}"
                found.append(Contestant(label, buffer, partial(chosen.allreduce, comm, buffer, scratch)))
        if self.nccl is not None:
            buffer = self.xp.zeros(n, TYPE)
            found.append(Contestant(NCCL, buffer, partial(self.by_nccl, buffer)))
        return found

    def by_nccl(self, buffer: Array) -> None:
        from cupy.cuda import nccl

        stream = self.xp.cuda.get_current_stream().ptr
        place = buffer.data.ptr
        self.nccl.allReduce(place, place, buffer.size, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream)

    def numbers(self, rank: int, n: int) -> Array:
        """Small whole numbers, whose sums are exact in any order."""
        return (self.xp.arange(n, dtype=np.int32) * 7 + 13 * rank) % 17 - 8

    def check(self, one: Contestant) -> None:
        """Raises RunError where the sum is wrong."""
        n, total = one.buffer.size, None
        for rank in range(self.comm.size):
            theirs = self.numbers(rank, n)
            total = theirs if total is None else total + theirs
        one.buffer[...] = self.numbers(self.comm.rank, n)
        self.start()
        one.call()
        wrong = int(self.xp.count_nonzero(one.buffer != total).get())
        self.comm.Barrier()
        if wrong:
            raise RunError(f"{one.name}: {wrong} of {n} sums are wrong on rank {self.comm.rank}")

    def start(self) -> None:
        finish(self.xp)
        self.comm.Barrier()

    def timed(self, call: Callable[[], object], calls: int) -> float:
        """Seconds a call, on this rank."""
        self.start()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        finish(self.xp)
        seconds = (time.perf_counter() - began) / calls
        self.comm.Barrier()  # a peer may still read our buffer
        return seconds

    def run(self, size: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The contestants' results, and what memory and the kernel of the sum reach on one GPU without the others."""
        ranks, n = self.comm.size, max(size // TYPE.itemsize // self.comm.size, 1) * self.comm.size
        size, calls = n * TYPE.itemsize, calls_in_a_batch(size, ranks)
        contestants = self.contestants(n)
        for one in contestants:
            self.check(one)
        seconds: list[list[float]] = [[] for _ in contestants]
        alone: list[list[float]] = [[], []]
        source, target = self.xp.zeros(n, TYPE), self.xp.zeros(n, TYPE)
        for turn in range(rounds):
            for i in np.random.default_rng(turn).permutation(len(contestants)):  # the same on all ranks
                contestants[i].buffer[...] = 1
                seconds[i].append(self.timed(contestants[i].call, calls))
            copies = partial(self.xp.copyto, target, source)
            alone[0].append(self.timed(copies if self.comm.rank == 0 else nothing, calls))
            adds = partial(self.add_here, n, [source] * ranks, target)
            alone[1].append(self.timed(adds if self.comm.rank == 0 else nothing, calls))
        for one in contestants:
            self.check(one)
        copy, add = (statistics.median(times) for times in self.comm.bcast(alone))
        copied, added = 2 * size / copy / 1e9, (ranks + 1) * size / add / 1e9
        memory = {
            "size_bytes": size,
            "copy_gb_per_s": copied,
            "add_gb_per_s": added,
            "add_of_copy": added / copied,
        }
        everyone = self.comm.allgather(seconds)
        found = []
        for i, one in enumerate(contestants):
            times = np.array([theirs[i] for theirs in everyone]).max(0)
            found.append(self.result(one.name, size, times, copied))
        for comm in self.ways.values():
            comm.Free_shared()
        return found, memory

    def add_here(self, n: int, sources: Sequence[Array], target: Array) -> None:
        from mpidp.collectives.cupy_sums import add

        add(sources, [target])

    def result(self, name: str, size: int, times: np.ndarray, copied: float) -> dict[str, Any]:
        median = float(np.median(times))
        moved = (
            2 * size * self.sharing() / median / 1e9
        )  # each rank reads its part of all, and writes it to all
        return {
            "operation": ALL_REDUCE,
            "way": name,
            "size_bytes": size,
            "time_us": median * 1e6,
            "busbw_gb_per_s": bus_bandwidth(ALL_REDUCE, size, median, self.comm.size),
            "of_copy": moved / copied,
            "rounds_us": [round(float(s) * 1e6, 3) for s in times],
        }

    def sharing(self) -> int:
        """The most ranks that share one GPU."""
        gpus = places(self.comm, self.xp)
        return max(gpus.count(gpu) for gpu in gpus)


def nothing() -> None:
    pass


def sheets(report: dict[str, Any]) -> list[Sheet]:
    results = Sheet(
        f"{ALL_REDUCE} of float32, {report['ranks']} ranks on {report['gpus']} GPU(s), medians of {report['rounds']} "
        "rounds, each the slowest rank's",
        ["size|B", "way", "time|µs", "busbw|GB/s", "of a copy's bandwidth|%", "× staged"],
        words=("way",),
    )
    for one in report["results"]:
        staged = [
            other["time_us"] for other in report["results"]
            if other["size_bytes"] == one["size_bytes"] and other["way"].startswith(STAGED)
        ]  # fmt: skip
        results.rows.append(
            [
                f"{one['size_bytes']:,}", one["way"], f"{one['time_us']:,.1f}", f"{one['busbw_gb_per_s']:.2f}",
                f"{100 * one['of_copy']:.0f}", f"{min(staged) / one['time_us']:.2f}",
            ]
        )  # fmt: skip
    memory = Sheet(
        f"One rank alone: a copy, and the kernel that adds {report['ranks']} vectors into one (read + written)",
        ["size|B", "copy|GB/s", "sum|GB/s", "sum of copy|%"],
    )
    for one in report["memory"]:
        memory.rows.append(
            [
                f"{one['size_bytes']:,}", f"{one['copy_gb_per_s']:,.1f}", f"{one['add_gb_per_s']:,.1f}",
                f"{100 * one['add_of_copy']:.0f}",
            ]
        )  # fmt: skip
    return [results, memory]


def body(comm: Communicator, arguments: Sequence[str]) -> int:
    options = together(comm, lambda: parse(arguments))
    together(comm, lambda: at_least_two(comm))
    place = together(comm, lambda: opened(CUDA, "auto", TYPE.name, comm))
    began, notes = time.perf_counter(), []
    with place.xp.cuda.Stream(non_blocking=True):
        bench = Bench(comm, place, ways(comm, place.xp, notes), connect_nccl(comm, place.xp, notes))
        report: dict[str, Any] = {
            "benchmark": "gpu_collectives",
            "command": f"mpirun -n {comm.size} python -m benchmarks.gpu_collectives {' '.join(arguments)}".rstrip(),
            "ranks": comm.size,
            "gpus": len({tuple(gpu) for gpu in places(comm, place.xp)}),
            "device": place.about,
            "rounds": options.rounds,
            "notes": notes,
            "environment": environment() if comm.rank == 0 else {},
            "results": [],
            "memory": [],
        }
        for i, size in enumerate(options.sizes):
            if comm.bcast(time.perf_counter() - began > options.seconds):
                left = ", ".join(f"{size:,}" for size in options.sizes[i:])
                notes.append(f"{left} bytes are left out: {options.seconds:g} s were over (--seconds)")
                break
            results, memory = bench.run(size, options.rounds)
            report["results"] += results
            report["memory"].append(memory)
    together(comm, lambda: publish(report, sheets(report), options.out) if comm.rank == 0 else None)
    return 0


def at_least_two(comm: Communicator) -> None:
    if comm.size < 2:
        raise UserError("one rank has nothing to add up: mpirun -n 2 python -m benchmarks.gpu_collectives")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.gpu_collectives", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help="bytes of a rank's vector; K, M, G are powers of 1024")
    parser.add_argument("--rounds", type=int, default=7, help="repeats, in each of which all take turns")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no further size is begun")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    options.sizes = [bytes_of(text) for text in options.sizes.split(",")]
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: body(comm, sys.argv[1:])))
