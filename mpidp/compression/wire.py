"""The encoded wire: the twin of `collectives.wire.Plain` by which a route sends what a codec makes of each cell."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mpidp.arrays import Array
from mpidp.compression.turn import Turn

if TYPE_CHECKING:
    from mpidp.compression.codec import Codec


class EncodedWire:
    """A vector whose cells (between two `bounds`) travel encoded, one payload behind the other.

    residual: of the same length, or None. Whenever a cell is encoded, its residual is added before, and becomes what
    the encoding lost:  p = x + e;  send C(p);  e ← p - C(p).  A rank encodes a cell once, when it passes its partial
    sum on or when it hands out the whole, so with Σ over ranks, and whoever adds up what where,

        result + Σ_r residual_r after it  =  Σ_r vector_r + Σ_r residual_r before it.

    What arrives is decoded and added in the vector's own type.
    memory(name, bytes): memory that is this wire's until its sum is made.
    """

    def __init__(
        self,
        codec: "Codec",
        vector: Array,
        bounds: Sequence[int],
        residual: Array | None,
        turn: Turn,
        memory: Callable[[str, int], Array],
    ):
        self.codec, self.vector, self.residual, self.turn, self.memory = codec, vector, residual, turn, memory
        self.size = vector.size
        self.cells = [(lo, hi) for lo, hi in pairwise(bounds) if lo < hi]
        self.starts = [lo for lo, _ in self.cells]
        self.at = {0: 0}  # where in the bytes the cell begins that begins here in the vector
        for lo, hi in self.cells:
            self.at[hi] = self.at[lo] + codec.nbytes(hi - lo)
        self.bytes = memory("payload", self.at[self.size])

    def own(self, part: slice) -> None:
        for lo, hi in self.cells_of(part):
            self.codec.own(self.vector[lo:hi], self.turn)

    def partial(self, part: slice) -> Array:
        for lo, hi in self.cells_of(part):
            x, payload = self.vector[lo:hi], self.payload(lo, hi)
            if self.residual is None:
                self.codec.encode(x, payload, self.turn.at(lo))
            else:
                kept = self.residual[lo:hi]
                x += kept
                self.codec.encode(x, payload, self.turn.at(lo))
                self.codec.decode(payload, kept)
                self.codec.xp.subtract(x, kept, out=kept)
        return self.payload(part.start, part.stop)

    def landing(self, part: slice, slot: int = 0) -> Array:
        return self.memory(f"landing {slot}", self.at[part.stop] - self.at[part.start])

    def add(self, part: slice, landed: Array) -> None:
        for lo, hi, payload in self.payloads(part, landed):
            self.codec.add(payload, self.vector[lo:hi])

    def settle(self, part: slice) -> None:
        """vector[part], to which all has been added, becomes the result."""
        for lo, hi in self.cells_of(part):
            self.codec.decide(self.vector[lo:hi], self.turn)

    def whole(self, part: slice) -> Array:
        self.settle(part)
        for lo, hi in self.cells_of(part):
            x, payload = self.vector[lo:hi], self.payload(lo, hi)
            if self.residual is None:
                self.codec.encode(x, payload, self.turn.at(lo))
                self.codec.decode(payload, x)
            else:
                kept = self.residual[lo:hi]
                x += kept
                self.codec.encode(x, payload, self.turn.at(lo))
                kept[...] = x
                self.codec.decode(payload, x)
                kept -= x
        return self.payload(part.start, part.stop)

    def home(self, part: slice) -> Array:
        return self.payload(part.start, part.stop)

    def place(self, part: slice) -> None:
        for lo, hi in self.cells_of(part):
            self.codec.decode(self.payload(lo, hi), self.vector[lo:hi])

    def payload(self, lo: int, hi: int) -> Array:
        """Where the payloads of the cells between these cuts lie: of what goes out, and later of what comes home."""
        return self.bytes[self.at[lo] : self.at[hi]]

    def payloads(self, part: slice, together: Array) -> Iterator[tuple[int, int, Array]]:
        """The cells of a part, each with its payload of those that came together."""
        start = self.at[part.start]
        for lo, hi in self.cells_of(part):
            yield lo, hi, together[self.at[lo] - start : self.at[hi] - start]

    def cells_of(self, part: slice) -> Iterator[tuple[int, int]]:
        i = bisect_left(self.starts, part.start)
        while i < len(self.cells) and self.cells[i][1] <= part.stop:
            yield self.cells[i]
            i += 1
