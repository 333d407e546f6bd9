"""Figures of all ranks added up on rank 0, with no rank waiting for another."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from mpidp.comm import Communicator
from mpidp.comm.pending import Pending

FIGURES = 6  # message tag


class Tally:
    """Σ over ranks of a few numbers, one sum for every time that each of the ranks calls `add`.

    The ranks add in one order, but not at one time: one may be thousands of sums ahead of another. Cost: a small
    message to rank 0 for each `add`.
    """

    def __init__(self, comm: Communicator):
        self.comm = comm
        self.ours: deque[np.ndarray] = deque()  # rank 0's parts of sums not yet given out
        self.sends: list[Pending] = []

    def add(self, numbers: Sequence[float]) -> None:
        """This rank's part of its next sum."""
        part = np.array(numbers, np.float64)
        if self.comm.rank == 0:
            self.ours.append(part)
        else:
            self.sends = [pending for pending in self.sends if not self.comm.Test(pending)]
            self.sends.append(self.comm.Isend(part, 0, FIGURES))

    def sums(self, wait: bool = False) -> Iterator[list[float]]:
        """On rank 0, of the sums that it has added to, those that are complete, each once and in order.

        wait: all of them, when they are complete. Another rank gets none, and with `wait` returns when its parts are
        on their way. The parts are added in rank order: the same bits whoever is first.
        """
        others = range(1, self.comm.size)
        while self.ours and (wait or self.comm.Test(*[self.comm.Iprobe(rank, FIGURES) for rank in others])):
            total = self.ours.popleft()
            for rank in others:
                part = np.empty_like(total)
                self.comm.Recv(part, rank, FIGURES)
                total += part
            yield total.tolist()
        if wait:
            self.comm.Wait(*self.sends)
            self.sends.clear()
