"""How a strategy sums a vector over ranks: the interface, and the sum that sends every number as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpidp.arrays import Array
from mpidp.collectives import Collective, Cost
from mpidp.collectives.wire import Bytes, Plain, Wire, plain_bytes
from mpidp.comm import Communicator, Steps
from mpidp.compression.encoding import Encoding
from mpidp.nn.layer import Parameter
from mpidp.takeover import Rules

TAG = 16  # of the first lane's messages; strategies' own are below


@dataclass(frozen=True)
class Place:
    """Where vectors are summed: over which ranks, by which route, and what lies in them."""

    comm: Communicator
    route: Collective | None  # None for a strategy that has messages of its own (`outgoing`)
    n: int
    dtype: np.dtype
    xp: Any
    parameters: Sequence[Parameter] = ()
    seed: int = 0


class Sum(Encoding):
    """Sums a vector of n elements over ranks, again and again; `--compress none`: by the route, as it is.

    It may be summed in parts, several under way in different lanes; what belongs to the elements of a part (its
    residual) is found by the part's place in the vector, the same every time.
    """

    def __init__(self, place: Place, options: Any = None):
        self.place, self.options = place, options
        self.comm, self.route, self.xp = place.comm, place.route, place.xp
        self.memory: dict[Any, Array] = {}

    @classmethod
    def make(cls, place, options):
        return cls(place, options)

    @property
    def lanes(self) -> int:
        """How many parts may be under way side by side; 0: the vector is summed as one, after backward."""
        return 0 if self.at_once else self.route.lanes

    def steps(self, buffer: Array, start: int = 0, lane: int = 0) -> Steps:
        """buffer ← Σ over ranks of buffer, the same bits on every rank: as steps of an algorithm.

        start: where in the vector of n elements that which buffer holds has its place.
        """
        yield from self.route_steps(buffer, lane)

    def allreduce(self, buffer: Array, start: int = 0) -> None:
        """The same, at once."""
        for pending in self.steps(buffer, start):
            self.comm.Wait(*pending)

    def reduce_scatter(self, vector: Array) -> None:
        """On each rank, its part (`Collective.part`) of vector ← Σ over ranks; other parts hold nothing of use."""
        self.route.reduce_scatter(self.comm, vector, self.scratch(vector.size))

    # For a strategy with messages of its own, whose contributions go to who sums them (a server)

    def outgoing(self, vector: Array, bounds: Sequence[int]) -> Wire:
        """How this rank's vector, cut at `bounds`, is sent: `Wire.partial` of each part. One call for one sum."""
        return Plain(vector)

    def landing(self, contribution: Array, slot: int = 0) -> Array:
        """Memory in which what is to be `contribution` arrives; those under way together have different slots."""
        return contribution

    def decode(self, landed: Array, contribution: Array) -> None:
        """contribution ← what has landed."""

    def settle(self, total: Array) -> None:
        """total, the sum of all contributions, ← the result."""

    def nbytes(self, n: int) -> int:
        """Bytes in which n elements are sent."""
        return plain_bytes(self.place.dtype)(n)

    # What is sent, and what is kept

    def cost(self, t: int = 1, n: int | None = None, start: int = 0) -> tuple[int, int]:
        """(messages, bytes) that this rank sends for the t-th sum of n elements from `start` on (default: all)."""
        return self.route_cost(self.route.cost, n)

    def scatter_cost(self, t: int = 1) -> tuple[int, int]:
        """The same for the reduce-scatter of the whole vector."""
        return self.route_cost(self.route.scatter_cost)

    def accompany(self, optimizer: Any) -> None:
        """Get to know the optimizer that steps with what is summed here."""

    rules: ClassVar[Rules] = {}
    """How another number of ranks takes over what `state` gives."""

    def state(self) -> dict[str, Array]:
        """All that a resume needs, as flat arrays; it may differ between ranks."""
        return {}

    def load_state(self, state: dict[str, Array]) -> None:
        """Take up what `state()` returned."""

    # For subclasses

    def route_steps(self, buffer: Array, lane: int = 0) -> Steps:
        """buffer ← Σ over ranks, by the route, as it is."""
        scratch = self.scratch(buffer.size, lane)
        yield from self.route.allreduce.steps(self.comm, buffer, scratch, TAG + lane)

    def route_cost(self, cost: Cost, n: int | None = None, nbytes: Bytes | None = None) -> tuple[int, int]:
        """One of the route's costs, for n elements that travel as `nbytes` bytes."""
        n = self.place.n if n is None else n
        return cost(n, self.comm.hosts(), self.comm.rank, nbytes or plain_bytes(self.place.dtype))

    def scratch(self, n: int, lane: int = 0) -> Array:
        """Memory in which the route sums n elements."""
        return self.take(("scratch", lane), self.route.scratch(n, self.comm.size))

    def take(self, name: Any, count: int, dtype: Any = None) -> Array:
        """Memory of this name for so many elements: the same every time, unless more is asked for than before."""
        memory = self.memory.get(name)
        if memory is None or memory.size < count:
            memory = self.memory[name] = self.xp.empty(count, dtype or self.place.dtype)
        return memory[:count]
