"""How many local steps each rank makes between two averages, so that all come to the next one at about one time."""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from mpidp.comm import Communicator

SPEEDS = 7  # message tag

LIKE = 1.1
"""A rank that takes so many times as long for a step as the fastest, or less, makes as many steps."""


class Speeds:
    """The plan of a round of `period` steps: rank r makes the first k_r of them and then waits for the average.

        k_r = round(period · min_j s_j / s_r), at least 1;  k_r = period where s_r ≤ 1.1 min_j s_j

    s_r: median seconds of a step of rank r in the round before, in which all ranks make `period` steps at first. A rank
    leaves the samples of its other steps out, and counts in the average by those that it has worked on.
    Cost: in each round from every rank to every other a message of 16 bytes: its samples and s_r.
    Source: after Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
    Optimization", arXiv 2007.07481, where ranks make unlike numbers of steps; there changes are divided by these
    numbers, here they are weighted by samples, as in federated averaging (McMahan et al. 2016, 1602.05629), so that
    where shards are unlike, those of fast ranks count for more.
    """

    def __init__(self, comm: Communicator, period: int):
        self.comm, self.period = comm, period
        self.steps = [period] * comm.size  # k, of every rank
        self.seconds: list[float] = []  # of this rank's steps in this round
        self.began = 0.0
        self.offered, self.worked = (
            0,
            0,
        )  # samples of all ranks in the steps so far, and what this one has worked on

    def begin(self) -> None:
        """This rank starts to compute a step."""
        self.began = time.perf_counter()

    def stepped(self, samples: int, total: int) -> None:
        """It has, on so many of the step's samples; none where it has left the step out, or had nothing to do."""
        self.offered, self.worked = self.offered + total, self.worked + samples
        if samples:
            self.seconds.append(time.perf_counter() - self.began)

    def leaves_out(self, position: int) -> bool:
        """Whether this rank leaves out the step with this place in the round: 1, 2, ..., period."""
        return position > self.steps[self.comm.rank]

    def total(self, samples: float) -> float:
        """Σ over ranks of their samples in this round, in rank order; on all ranks together."""
        return sum(samples for samples, _ in self.exchanged(samples))

    def next_round(self, samples: float) -> float:
        """The same; and the plan of the round that begins."""
        everyone = self.exchanged(samples)
        self.steps = plan(self.period, [seconds for _, seconds in everyone])
        self.seconds = []
        return sum(samples for samples, _ in everyone)

    def exchanged(self, samples: float) -> list[tuple[float, float]]:
        """(samples, seconds of a step) of every rank."""
        comm, own = self.comm, statistics.median(self.seconds) if self.seconds else 0.0
        found = [np.array([samples, own]) for _ in range(comm.size)]
        others = [rank for rank in range(comm.size) if rank != comm.rank]
        receives = [comm.Irecv(found[rank], rank, SPEEDS) for rank in others]
        comm.Wait(*receives, *[comm.Isend(found[comm.rank], rank, SPEEDS) for rank in others])
        return [(float(samples), float(seconds)) for samples, seconds in found]

    def cost(self) -> tuple[int, int]:
        """(messages, bytes) that this rank sends in each round."""
        return self.comm.size - 1, 16 * (self.comm.size - 1)

    def summary(self) -> dict:
        """Of the last round, and of this start of the run; on all ranks together."""
        (worked,) = self.comm.sum([self.worked])
        return {"local_steps_by_rank": self.steps, "samples_left_out": int(self.offered - worked)}

    def state(self) -> np.ndarray:
        return np.array(self.steps, np.int64)

    def load_state(self, state: np.ndarray) -> None:
        """Take up a plan; that of another number of ranks is none for these, which begin as equals."""
        self.steps = state.tolist() if len(state) == self.comm.size else [self.period] * self.comm.size


def plan(period: int, seconds: Sequence[float]) -> list[int]:
    """k, from every rank's seconds of a step; a rank that made no step (0) makes all."""
    known = [s for s in seconds if s > 0]
    fastest = min(known, default=0.0)
    return [period if s <= LIKE * fastest else max(1, round(period * fastest / s)) for s in seconds]
