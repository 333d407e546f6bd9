"""The ranks of `link.py`: `python -m benchmarks.link_worker TASK.json` under mpirun; rank 0 writes the answer."""

import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.hosts import link_bytes, wait_for_link
from benchmarks.mpidp_worker import work
from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator
from mpidp.comm.world import guarded
from mpidp.errors import RunError

TYPE = np.dtype(np.float32)


def run(comm: Communicator, path: Path) -> int:
    task = json.loads(path.read_text())
    hosts = comm.allgather(socket.gethostname())
    if len(set(hosts)) != 2:
        raise RunError(f"the ranks are to be on two hosts and are on {', '.join(hosts)}")
    answer = {"sums": sums, "training": training}[task["do"]](comm, task, speaker(comm, hosts))
    if comm.rank == 0:
        path.with_suffix(".answer").write_text(json.dumps(answer | {"hosts": hosts}))
    return 0


def speaker(comm: Communicator, hosts: Sequence[str]) -> bool:
    """Whether this rank reads its host's counters: the first rank there does."""
    return hosts.index(hosts[comm.rank]) == comm.rank


def sums(comm: Communicator, task: dict[str, Any], speaks: bool) -> dict[str, Any]:
    """All-reduce of vectors of the sizes by every route that can be taken: seconds a round, and bytes on the link."""
    unable = {name: COLLECTIVES[name].unable(comm, TYPE) for name in task["routes"]}
    able = [name for name, why in unable.items() if why is None]
    found = []
    for size in task["sizes"]:
        n = size // TYPE.itemsize
        scratch = np.empty(max(COLLECTIVES[name].scratch(n, comm.size) for name in able), TYPE)
        vectors = {name: COLLECTIVES[name].allocate(comm, n, TYPE) for name in able}
        seconds: dict[str, list[float]] = {name: [] for name in able}
        on_link: dict[str, list[int]] = {name: [] for name in able}
        for turn in range(task["rounds"] + 1):
            for i in np.random.default_rng(turn).permutation(len(able)):  # the same on all ranks
                name = able[i]
                time_taken, sent = one_sum(comm, name, vectors[name], scratch, speaks)
                if turn > 0:  # the first call opens connections
                    seconds[name].append(time_taken)
                    on_link[name].append(sent)
        del vectors
        comm.Free_shared()
        everyone = comm.allgather([seconds, on_link])
        for name in able:
            slowest = np.max([theirs[name] for theirs, _ in everyone], 0)
            sent = median(np.sum([theirs[name] for _, theirs in everyone], 0).tolist())
            found.append(
                {"size_bytes": size, "route": name, "rounds_s": slowest.tolist(), "link_bytes": sent}
            )
    return {"sums": found, "unable": {name: why for name, why in unable.items() if why is not None}}


def one_sum(
    comm: Communicator, name: str, vector: np.ndarray, scratch: np.ndarray, speaks: bool
) -> tuple[float, int]:
    """(seconds, bytes that our host sent; 0 where another rank counts) of one sum; RunError where it is wrong."""
    places = np.arange(vector.size, dtype=np.int64)
    vector[...] = (places * (comm.rank + 3)) % 17 - 8  # whole numbers: their sums are exact in any order
    expected = sum((places * (rank + 3)) % 17 - 8 for rank in range(comm.size))
    wait_for_link()
    before = link_bytes()  # and not after the barrier: other ranks of this host may have left it
    comm.Barrier()
    began = time.perf_counter()
    COLLECTIVES[name].allreduce(comm, vector, scratch)
    seconds = time.perf_counter() - began
    comm.Barrier()
    wait_for_link()
    sent = link_bytes() - before if speaks else 0
    if not (vector == expected).all():
        raise RunError(f"all-reduce by {name} of {vector.nbytes} bytes is wrong on rank {comm.rank}")
    return seconds, sent


def training(comm: Communicator, task: dict[str, Any], speaks: bool) -> dict[str, Any]:
    """The same model trained in several ways, in turn: seconds a step in each round, and bytes on the link."""
    works = {name: work(comm.Dup(), arguments) for name, arguments in task["ways"].items()}
    names = list(works)
    t = dict.fromkeys(names, 0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    on_link: dict[str, list[int]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(task["rounds"] + 1):
        for i in np.random.default_rng(turn).permutation(len(names)):
            name = names[i]
            wait_for_link()
            before = link_bytes()
            comm.Barrier()
            began = time.perf_counter()
            for _ in range(task["steps"]):
                t[name] += 1
                losses[name].append(works[name].step(t[name]))
            took = (time.perf_counter() - began) / task["steps"]
            comm.Barrier()
            wait_for_link()
            if turn > 0:
                seconds[name].append(took)
                on_link[name].append((link_bytes() - before) // task["steps"] if speaks else 0)
    everyone = comm.allgather([seconds, on_link])
    found = {}
    for name in names:
        slowest = np.max([theirs[name] for theirs, _ in everyone], 0)
        sent = median(np.sum([theirs[name] for _, theirs in everyone], 0).tolist())
        found[name] = {"rounds_s": slowest.tolist(), "link_bytes": sent, "losses": losses[name]}
    return {"training": found}


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: run(comm, Path(sys.argv[1]))))
