"""A sum over ranks that goes on while backward computes: the flat gradient in buckets."""

from collections import deque
from collections.abc import Iterator, Sequence

from mpidp.arrays import Array
from mpidp.comm import Communicator, Steps, UnderWay
from mpidp.compression import Sum


def cut(n: int, length: int) -> list[slice]:
    """[0, n) in slices of `length` elements, from the tail to the head; the last one has what is left."""
    return [slice(max(hi - length, 0), hi) for hi in range(n, 0, -length)]


class Queue:
    """Sums over ranks of slices of one vector of n elements, in the order in which backward completes them.

    slices: from the tail to the head. A slice starts when it is `ready` and a lane is free: slice k takes lane k mod L,
    so L of them can be under way, and all ranks start them in one order. `finish` and `summed` alone wait.
    """

    def __init__(self, comm: Communicator, slices: Sequence[slice], n: int, lanes: int):
        self.comm = comm
        self.slices = slices
        self.lanes = max(1, min(lanes, len(slices)))
        self.under_way: deque[UnderWay] = deque()  # in the order of their start
        self.started = 0  # slices of this step
        self.complete = n  # elements from here on are final

    def steps(self, vector: Array, part: slice, lane: int) -> Steps:
        """The sum of vector[part], with what tag and memory this lane has of its own."""
        raise NotImplementedError

    def ready(self, vector: Array, lo: int) -> None:
        """vector[lo:] is final: start what can be started."""
        self.complete = lo
        self.advance(vector)

    def advance(self, vector: Array) -> None:
        """Go as far as possible without waiting."""
        for started in self.under_way:
            started.advance()
        while True:
            while self.under_way and self.under_way[0].pending is None:
                self.under_way.popleft()
            if len(self.under_way) == self.lanes or self.started == len(self.slices):
                return
            part = self.slices[self.started]
            if part.start < self.complete:
                return
            lane = self.started % self.lanes
            self.started += 1
            self.under_way.append(UnderWay(self.comm, self.steps(vector, part, lane)))

    def finish(self, vector: Array) -> None:
        """Return when all of the vector is summed."""
        for _ in self.summed(vector):
            pass

    def summed(self, vector: Array) -> Iterator[slice]:
        """Wait for all of the vector: each slice as soon as it is summed, the others being under way meanwhile."""
        self.ready(vector, 0)
        for done, part in enumerate(self.slices, start=1):
            while self.started - len(self.under_way) < done:
                self.under_way[0].wait()
                self.advance(vector)
            yield part
            self.advance(vector)
        self.started, self.complete = 0, vector.size


class Buckets(Queue):
    """All-reduce of a vector of n elements in buckets of `length`, each lane with scratch of its own.

    Where `length` is 0, or the sum has no lanes (`Sum.lanes` is 0), there is one bucket, which `finish` starts.
    Source: Li et al. 2020, "PyTorch Distributed", arXiv 2006.15704 (for the practice).
    """

    def __init__(self, comm: Communicator, summing: Sum, n: int, length: int):
        self.sum = summing
        whole = length == 0 or summing.lanes == 0
        super().__init__(comm, cut(n, max(n, 1) if whole else length), n, summing.lanes)
        self.early = (
            len(self.slices) > 1
        )  # a single one is complete when backward is done, and so is left to `finish`

    def steps(self, vector: Array, part: slice, lane: int) -> Steps:
        return self.sum.steps(vector[part], part.start, lane)

    def ready(self, vector: Array, lo: int) -> None:
        if self.early:
            super().ready(vector, lo)

    def summed(self, vector: Array) -> Iterator[slice]:
        if self.early:
            yield from super().summed(vector)
        else:
            self.sum.allreduce(vector)
            yield slice(0, vector.size)
