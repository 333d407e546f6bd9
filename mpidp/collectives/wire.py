"""The wire: how the parts of one vector travel while it is summed. A route is written once, over any wire.

A route cuts the vector by a grid (`Collective.bounds`, ascending from 0 to n); each `part` below is a slice between two
cuts, of one cell or of several neighbours. It is summed in two phases, one after the other:

    reduce    `own`, where raw contributions are added up at one rank; `partial` is what is sent; it arrives in
              `landing`; `add`
    hand-out  `whole`, where the sum of a part is complete, is what is sent; it arrives at `home`, from where it is sent
              on as it came; `place`

A rank asks for the `partial` of a cell once at most, and once for the `whole` of the cells that it completes. What it
got stays as it is until the phase is over, so that it may be under way as long; parts that are under way together land
in different slots. With an encoding (`mpidp/compression`) a message holds what the encoding makes of each cell, cell
after cell.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Algorithm, Communicator, Steps

Bytes = Callable[[int], int]
"""nbytes(elements): bytes on the wire of one grid cell of that many elements; none for an empty one."""

RankCost = Callable[[int, int, int, Bytes], tuple[int, int]]
"""cost(n, P, rank, nbytes): (messages, bytes) that a rank sends."""

Landing = Callable[[int, int], tuple[int, int]]
"""landing(n, P): (slots that a route uses, elements of the longest part that lands)."""


class Wire(Protocol):
    vector: Array
    size: int  # n, its elements

    def own(self, part: slice) -> None:
        """Raw contributions of the others are about to be added to this rank's own `part`, which nobody sends."""

    def partial(self, part: slice) -> Array:
        """What to send for vector[part], of which this rank has a partial sum."""

    def landing(self, part: slice, slot: int = 0) -> Array:
        """Memory in which a peer's partial of `part` is received."""

    def add(self, part: slice, landed: Array) -> None:
        """vector[part] += what has landed."""

    def whole(self, part: slice) -> Array:
        """What to send for vector[part], the complete sum; vector[part] becomes what receivers will make of it.

        Called by one rank alone too: what a sum is does not depend on how many ranks there are.
        """

    def home(self, part: slice) -> Array:
        """Memory in which the complete `part` is received, or lies where `whole` was asked for it, to be passed on."""

    def place(self, part: slice) -> None:
        """vector[part] ← what came home."""


class Plain:
    """The vector itself on the wire. `scratch`: where partial sums land, in `slots` of the same length."""

    def __init__(self, vector: Array, scratch: Array | None = None, slots: int = 1):
        self.vector, self.scratch = vector, scratch
        self.size = vector.size
        self.stride = 0 if scratch is None else scratch.size // slots

    def own(self, part: slice) -> None:
        pass

    def partial(self, part: slice) -> Array:
        return self.vector[part]

    def landing(self, part: slice, slot: int = 0) -> Array:
        start = slot * self.stride
        return self.scratch[start : start + part.stop - part.start]

    def add(self, part: slice, landed: Array) -> None:
        self.vector[part] += landed

    def whole(self, part: slice) -> Array:
        return self.vector[part]

    def home(self, part: slice) -> Array:
        return self.vector[part]

    def place(self, part: slice) -> None:
        pass


def chunk(n: int, size: int, i: int) -> slice:
    """Chunk i (mod `size`) of a vector of n elements cut into `size` chunks that differ by one at most."""
    i %= size
    return slice(i * n // size, (i + 1) * n // size)


def chunk_bounds(n: int, size: int) -> list[int]:
    """The grid of `size` chunks."""
    return [i * n // size for i in range(size + 1)]


def one_chunk(n: int, size: int) -> tuple[int, int]:
    """The `Landing` of a route to which one chunk comes at a time."""
    return 1, -(-n // size)


def plain_bytes(dtype: Any) -> Bytes:
    """Bytes of elements that travel as they are."""
    itemsize = np.dtype(dtype).itemsize
    return lambda elements: elements * itemsize


def of_halves(scatter_cost: RankCost, gather_cost: RankCost) -> RankCost:
    """The cost of an all-reduce from those of its reduce-scatter and its all-gather."""

    def cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
        """(messages, bytes) that `rank` sends in one all-reduce of n elements, exact for every n and P."""
        halves = scatter_cost(n, size, rank, nbytes), gather_cost(n, size, rank, nbytes)
        messages, sent = map(sum, zip(*halves, strict=True))
        return messages, sent

    return cost


def plain(
    coded_reduce_scatter: Algorithm, coded_all_gather: Algorithm, landing: Landing = one_chunk
) -> tuple[Algorithm, Algorithm, Algorithm]:
    """A route's all-reduce, reduce-scatter and all-gather of a vector that travels as it is."""

    def scattering(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
        """buffer's part of this rank ← its sum over ranks; the other parts are left with partial sums."""
        slots, longest = landing(buffer.size, comm.size)
        if scratch.size < slots * longest:
            raise ValueError(f"a scratch of {scratch.size} elements, where {slots} x {longest} are needed")
        return coded_reduce_scatter.steps(comm, Plain(buffer, scratch, slots), tag)

    def gathering(comm: Communicator, buffer: Array, tag: int = 0) -> Steps:
        """Every rank's part of buffer ← what that rank has there."""
        return coded_all_gather.steps(comm, Plain(buffer), tag)

    def summing(comm: Communicator, buffer: Array, scratch: Array, tag: int = 0) -> Steps:
        """buffer ← Σ over ranks of buffer, the same bits on every rank."""
        yield from scattering(comm, buffer, scratch, tag)
        yield from gathering(comm, buffer, tag)

    return Algorithm(summing), Algorithm(scattering), Algorithm(gathering)
