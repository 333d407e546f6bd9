"""Figures of all ranks brought together on rank 0, with no rank waiting for another."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from mpidp.comm import Communicator
from mpidp.comm.pending import Pending

FIGURES = 6  # message tag


class Tally:
    """A few numbers of every rank, together for every time that each of the ranks calls `add`.

    The ranks add in one order, but not at one time: one may be thousands of times ahead of another. Cost: a small
    message to rank 0 for each `add`.
    """

    def __init__(self, comm: Communicator):
        self.comm = comm
        self.ours: deque[np.ndarray] = deque()  # rank 0's parts that are not yet given out
        self.sends: list[Pending] = []

    def add(self, numbers: Sequence[float]) -> None:
        """This rank's part, the next time."""
        part = np.array(numbers, np.float64)
        if self.comm.rank == 0:
            self.ours.append(part)
        else:
            self.sends = [pending for pending in self.sends if not self.comm.Test(pending)]
            self.sends.append(self.comm.Isend(part, 0, FIGURES))

    def complete(self, wait: bool = False) -> Iterator[list[list[float]]]:
        """On rank 0, all ranks' parts, in rank order, of each time of which all are there: each once and in order.

        wait: of all times that rank 0 has added to, when they are there. Another rank gets none, and with `wait`
        returns when its parts are on their way.
        """
        others = range(1, self.comm.size)
        while self.ours and (wait or self.comm.Test(*[self.comm.Iprobe(rank, FIGURES) for rank in others])):
            parts = [self.ours.popleft()]
            for rank in others:
                parts.append(np.empty_like(parts[0]))
                self.comm.Recv(parts[rank], rank, FIGURES)
            yield [part.tolist() for part in parts]
        if wait:
            self.comm.Wait(*self.sends)
            self.sends.clear()
