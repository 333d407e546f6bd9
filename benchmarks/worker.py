"""The measured processes' end of the control line: told by `groups.py` what to do, asleep the rest of the time.

One line of JSON each way over a Unix socket. Waiting is a blocking read, which takes no core from whoever is
measured just then; a closed line means that the benchmark is over, so that no worker outlives it.
"""

import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SGEMM_SIZE, SGEMM_TIMES = 2048, 4


@dataclass
class Work:
    """What a worker can do: `step(t)` is training step t = 1, 2, ... and this rank's mean loss before it."""

    step: Callable[[int], float]
    barrier: Callable[[], None]  # over the ranks of its group
    square: Callable[
        [int], Callable[[], Any]
    ]  # n -> a product of two n x n float32 matrices, ready to be run
    about: str = ""  # who computes its products


class Line:
    """The connection to the parent."""

    def __init__(self, path: str, index: int):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.send({"index": index, "pid": os.getpid()})

    def send(self, message: dict[str, Any]) -> None:
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()

    def receive(self) -> dict[str, Any] | None:
        text = self.file.readline()
        return json.loads(text) if text else None


def serve(line: Line, work: Work) -> None:
    """Take the first step, say so, and do as told until the line is closed."""
    t = 1
    line.send({"loss": work.step(t), "about": work.about})
    while (told := line.receive()) is not None:
        if told["do"] == "sgemm":
            line.send({"gflops": sgemm(work)})
            continue
        losses = []
        for _ in range(told["warm"]):
            t += 1
            work.step(t)
        work.barrier()
        began = time.perf_counter()
        for _ in range(told["count"]):
            t += 1
            losses.append(work.step(t))
        seconds = time.perf_counter() - began
        line.send({"seconds": seconds, "losses": losses[-told["losses"] :], **memory()})


def sgemm(work: Work) -> float:
    """GFLOP/s of one large float32 product in this rank while its peers do the same: the median of a few."""
    product, times = work.square(SGEMM_SIZE), []
    product()
    work.barrier()
    for _ in range(SGEMM_TIMES):
        began = time.perf_counter()
        product()
        times.append(time.perf_counter() - began)
    return 2 * SGEMM_SIZE**3 / statistics.median(times) / 1e9


def memory() -> dict[str, float]:
    """MiB: the peak of what this process had resident (shared pages in full), and its fair share of what it has now.

    Not ru_maxrss, which a process inherits from the one that started it.
    """
    return {
        "peak_mib": _kib("/proc/self/status", "VmHWM:") / 1024,
        "share_mib": _kib("/proc/self/smaps_rollup", "Pss:") / 1024,
    }


def _kib(path: str, name: str) -> int:
    return next(int(s.split()[1]) for s in Path(path).read_text().splitlines() if s.startswith(name))
