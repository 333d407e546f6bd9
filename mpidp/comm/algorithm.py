"""Algorithms over ranks: one text each, to be run to its end at once, or a bit at a time beside other work."""

import functools
from collections.abc import Callable, Iterator, Sequence

from mpidp.comm.communicator import Communicator, Pending

Steps = Iterator[Sequence[Pending]]
"""What an algorithm's generator yields: the operations that must be complete before it is resumed."""


class Algorithm:
    """`@Algorithm` above a generator function of (comm, ...) that yields what must be complete before it is resumed.

    `algorithm(comm, ...)` runs it to its end, waiting. `algorithm.steps(comm, ...)` is the generator itself: for an
    algorithm made of others (`yield from other.steps(comm, ...)`) and for `UnderWay`.
    """

    def __init__(self, steps: Callable[..., Steps]):
        self.steps = steps
        functools.update_wrapper(self, steps)

    def __call__(self, comm: Communicator, *args, **kwargs) -> None:
        steps = self.steps(comm, *args, **kwargs)
        if comm.order is not None:
            comm.order.algorithm(steps)
        for pending in steps:
            comm.Wait(*pending, of=steps)


class UnderWay:
    """A started algorithm that goes on when it is told to."""

    def __init__(self, comm: Communicator, steps: Steps):
        self.comm = comm
        self.steps = steps
        if comm.order is not None:
            comm.order.algorithm(steps)
        self.pending = next(steps, None)

    def advance(self) -> bool:
        """Go as far as possible without waiting; whether the end is reached."""
        while self.pending is not None:
            if not self.comm.Test(*self.pending):
                return False
            self.pending = next(self.steps, None)
        return True

    def wait(self) -> None:
        """Return when it can go on."""
        if self.pending is not None:
            self.comm.Wait(*self.pending, of=self.steps)
