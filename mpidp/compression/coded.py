"""Sums over ranks whose messages a codec writes and reads, with error feedback once for all codecs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Steps
from mpidp.compression.feedback import FeedbackSum
from mpidp.compression.sums import TAG, Place
from mpidp.compression.wire import EncodedWire

if TYPE_CHECKING:
    from mpidp.compression.codec import Codec


class Coded(FeedbackSum):
    """vector ← Σ over ranks, by a route that sends what a codec makes of each cell of its grid."""

    def __init__(self, place: Place, codec: "Codec", feedback: bool):
        super().__init__(place, codec.options, feedback)
        self.codec = codec

    def steps(self, buffer: Array, start: int = 0, lane: int = 0) -> Steps:
        wire = self.begin(buffer, self.route.bounds(buffer.size, self.comm.size), start, lane)
        if self.comm.size == 1:  # nothing is sent, yet the result is to be what the encoding delivers
            wire.whole(slice(0, wire.size))
            return
        yield from self.route.coded_reduce_scatter.steps(self.comm, wire, TAG + lane)
        yield from self.route.coded_all_gather.steps(self.comm, wire, TAG + lane)

    def reduce_scatter(self, vector):
        wire = self.begin(vector, self.route.bounds(vector.size, self.comm.size))
        if self.comm.size > 1:
            self.route.coded_reduce_scatter(self.comm, wire, TAG)
        wire.settle(self.route.part(vector.size, self.comm.size, self.comm.rank))

    def begin(self, buffer: Array, bounds: Sequence[int], start: int = 0, lane: int = 0) -> EncodedWire:
        """The wire of this rank's next contribution to the sum of what has its place at `start`."""

        def memory(name: str, nbytes: int) -> Array:
            return self.take((name, lane), nbytes, np.uint8)

        kept = self.kept(start, buffer.size)
        return EncodedWire(self.codec, buffer, bounds, kept, self.next_turn(start), memory)

    def outgoing(self, vector, bounds):
        return self.begin(vector, bounds)

    def landing(self, contribution, slot=0):
        return self.take(("contribution", slot), self.codec.nbytes(contribution.size), np.uint8)

    def decode(self, landed, contribution):
        self.codec.decode(landed, contribution)

    def settle(self, total):
        self.codec.decide(total, self.next_turn(0))

    def cost(self, t=1, n=None, start=0):
        return self.route_cost(self.route.cost, n, self.codec.nbytes)

    def scatter_cost(self, t=1):
        return self.route_cost(self.route.scatter_cost, None, self.codec.nbytes)

    def nbytes(self, n):
        return self.codec.nbytes(n)
