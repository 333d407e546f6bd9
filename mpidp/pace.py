"""Where a rank's time goes, over a run and between two logged steps; and which rank is late again and again."""

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mpidp.comm import Communicator
from mpidp.strategies import Strategy

FACTOR = 1.5
"""A rank is late that computes so many times as long as the others' median,"""
TIMES = 3
"""in so many logged intervals, one after another,"""
LEAST = 0.05
"""and by so many seconds in each: less is what a machine does by chance."""


class Clock:
    """Seconds of this rank inside training steps: all, those of communication, and of these those spent waiting."""

    def __init__(self) -> None:
        self.seconds = self.communication = self.waiting = 0.0
        self.then = [0.0, 0.0, 0.0]

    @contextlib.contextmanager
    def ticking(self, strategy: Strategy) -> Iterator[None]:
        """Count the time inside, unless it ends by an exception."""
        began, communication = time.perf_counter(), strategy.seconds_communication
        waiting = strategy.comm.traffic.seconds_waiting
        yield
        self.seconds += time.perf_counter() - began
        self.communication += strategy.seconds_communication - communication
        self.waiting += strategy.comm.traffic.seconds_waiting - waiting

    def lap(self) -> list[float]:
        """The same three since the last call."""
        now = [self.seconds, self.communication, self.waiting]
        since = [b - a for a, b in zip(self.then, now, strict=True)]
        self.then = now
        return since


def interval(counts: Sequence[float], laps: Sequence[Sequence[float]]) -> tuple[float, dict[str, Any]]:
    """Of what all ranks did between two logged steps: samples a second, and every rank's computing and waiting.

    counts: samples of each rank; laps: its `Clock.lap`. The rate is the sum of the ranks' own.
    """
    rate = sum(count / max(lap[0], 1e-9) for count, lap in zip(counts, laps, strict=True))
    return rate, {
        "seconds_compute_by_rank": [round(lap[0] - lap[1], 6) for lap in laps],
        "seconds_waiting_by_rank": [round(lap[2], 6) for lap in laps],
    }


class Laggards:
    """Tells, once for each, of workers that are late in one logged interval after another."""

    def __init__(self, comm: Communicator, workers: int):
        self.hosts = comm.allgather(socket.gethostname())
        self.workers = workers
        self.in_a_row = [0] * workers
        self.told: set[int] = set()

    def seen(self, seconds: Sequence[float]) -> str | None:
        """What to tell after an interval in which the ranks computed for so many seconds."""
        seconds = seconds[: self.workers]
        for rank, own in enumerate(seconds):
            others = [*seconds[:rank], *seconds[rank + 1 :]]
            usual = statistics.median(others) if others else own
            late = own > FACTOR * usual and own - usual > LEAST
            self.in_a_row[rank] = self.in_a_row[rank] + 1 if late else 0
            if self.in_a_row[rank] == TIMES and rank not in self.told:
                self.told.add(rank)
                times = own / max(usual, 1e-9)
                return (
                    f"warning: rank {rank} on {self.hosts[rank]} is slow: it computes {times:.1f} times as long as the "
                    "others (is something else running there?)"
                )
        return None
