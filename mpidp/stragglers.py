"""Ranks that are later than others: one made so on purpose (`--slow RANK:FACTOR`), and who was, in the summary."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpidp.errors import UserError
from mpidp.strategies import Strategy

NAP = 1e-3  # seconds: a rank that computes looks after its messages about as often


def slowed(text: str) -> dict[int, float]:
    """Rank -> factor, of a text such as "3:2.5" or "1:3,3:2.5". Raises UserError where it is none."""
    found: dict[int, float] = {}
    for part in text.split(","):
        rank, _, factor = part.strip().partition(":")
        try:
            pair = int(rank), float(factor)
        except ValueError:
            raise UserError(
                f"--slow {text}: {part.strip() or 'nothing'} is no RANK:FACTOR, such as 3:2.5; several with commas"
            ) from None
        if pair[0] < 0 or not 1 <= pair[1] < float("inf"):
            raise UserError(f"--slow {text}: {part.strip()}: ranks count from 0, and a factor is at least 1")
        if pair[0] in found:
            raise UserError(f"--slow {text}: rank {pair[0]} stands there twice")
        found[pair[0]] = pair[1]
    return found


class Lag:
    """Has this rank's computing take `factor` times as long: between `begin` and `end`, which sleeps for the rest.

    The strategy's messages move on meanwhile as they do during backward, for a slow rank looks after them as well.
    """

    def __init__(self, factor: float, strategy: Strategy):
        self.factor, self.strategy = factor, strategy

    def begin(self) -> None:
        self.began = time.perf_counter() - self.strategy.seconds_communication

    def end(self) -> None:
        if self.factor > 1:
            due = self.factor * self.computing()
            while (left := due - self.computing()) > 0:
                time.sleep(min(left, NAP))
                self.strategy.advance()

    def computing(self) -> float:
        """Seconds since `begin`, without those of communication."""
        return time.perf_counter() - self.strategy.seconds_communication - self.began


def lag(text: str | None, strategy: Strategy, goes_on: bool = False) -> Lag:
    """This rank's part of `--slow`. Raises UserError where it names a rank that computes no gradients.

    goes_on: whether the run was begun before, perhaps by more ranks, among which it was.
    """
    factors = slowed(text) if text else {}
    for rank in factors:
        if rank >= strategy.workers and not goes_on:
            why = "there is no such rank" if rank >= strategy.comm.size else "a server computes no gradient"
            raise UserError(f"--slow {text}: rank {rank}: {why}: name one of 0 to {strategy.workers - 1}")
    return Lag(factors.get(strategy.comm.rank, 1.0), strategy)


def by_rank(
    seconds: Sequence[float], communication: Sequence[float], waiting: Sequence[float], workers: int
) -> dict[str, Any]:
    """Where the ranks' time went, for the summary: means over workers, every rank's figures, and the slowest worker.

    imbalance: the longest computing time of a worker over the mean of all workers'.
    """
    parts = {
        "compute": [whole - c for whole, c in zip(seconds, communication, strict=True)],
        "communication": [c - w for c, w in zip(communication, waiting, strict=True)],
        "waiting": list(waiting),
    }
    figures: dict[str, Any] = {f"seconds_{name}": np.mean(each[:workers]) for name, each in parts.items()}
    figures |= {f"seconds_{name}_by_rank": each for name, each in parts.items()}
    mean = figures["seconds_compute"]
    if mean > 0:
        slowest = int(np.argmax(parts["compute"][:workers]))
        figures |= {"imbalance": parts["compute"][slowest] / mean, "slowest_rank": slowest}
    return figures
