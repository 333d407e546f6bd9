"""A sum over ranks that goes on while backward computes: the flat gradient in buckets."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from mpidp.arrays import Array
from mpidp.collectives import Collective
from mpidp.comm import Communicator, UnderWay

TAG = 16  # of the first lane's messages; strategies' own are below


def cut(n: int, length: int) -> list[slice]:
    """[0, n) in slices of `length` elements, from the tail to the head; the last one has what is left."""
    return [slice(max(hi - length, 0), hi) for hi in range(n, 0, -length)]


class Buckets:
    """All-reduce of a vector of n elements in buckets of `length`, in the order in which backward completes them.

    A bucket starts when it is `ready` and a lane is free: bucket k takes lane k mod L, which has a tag and scratch of
    its own, so L of them can be under way, and all ranks start them in one order. `finish` and `summed` alone wait.
    Where `length` is 0, or overlap gains nothing on this route (`lanes` is 0), there is one bucket, which `finish`
    starts. Source: Li et al. 2020, "PyTorch Distributed", arXiv 2006.15704 (for the practice).
    """

    def __init__(self, comm: Communicator, route: Collective, n: int, length: int, xp: Any, dtype: Any):
        self.comm = comm
        self.route = route
        whole = length == 0 or route.lanes == 0
        self.slices = cut(n, max(n, 1) if whole else length)
        self.lanes = max(1, min(route.lanes, len(self.slices)))
        self.early = (
            len(self.slices) > 1
        )  # a single one is complete when backward is done, and so is left to `finish`
        longest = min(n, length) if self.early else n
        self.scratch = [xp.empty(route.scratch(longest, comm.size), dtype) for _ in range(self.lanes)]
        self.under_way: deque[UnderWay] = deque()  # in the order of their start
        self.started = 0  # buckets of this step
        self.complete = n  # elements from here on are final

    def ready(self, vector: Array, lo: int) -> None:
        """vector[lo:] is final: start what can be started, but for a single bucket."""
        if self.early:
            self.complete = lo
            self.advance(vector)

    def advance(self, vector: Array) -> None:
        """Go as far as possible without waiting."""
        for bucket in self.under_way:
            bucket.advance()
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
            steps = self.route.allreduce.steps(self.comm, vector[part], self.scratch[lane], TAG + lane)
            self.under_way.append(UnderWay(self.comm, steps))

    def finish(self, vector: Array) -> None:
        """Return when all of the vector is summed."""
        for _ in self.summed(vector):
            pass

    def summed(self, vector: Array) -> Iterator[slice]:
        """Wait for all of the vector: each bucket as soon as it is summed, the others being under way meanwhile."""
        if not self.early:
            self.route.allreduce(self.comm, vector, self.scratch[0])
            yield slice(0, vector.size)
            return
        self.ready(vector, 0)
        for done, part in enumerate(self.slices, start=1):
            while self.started - len(self.under_way) < done:
                self.under_way[0].wait()
                self.advance(vector)
            yield part
            self.advance(vector)
        self.started, self.complete = 0, vector.size
