"""Top-k: the largest elements, each with its place."""

import math
from dataclasses import dataclass

from mpidp.compression.codec import Codec, Feedback
from mpidp.options import option


@dataclass
class TopKOptions(Feedback):
    density: float = option(0.01, "share of the elements that travel", above=0, maximum=1)


def count(density: float, n: int) -> int:
    """⌈density n⌉, also where their product in floating point is a hair above a whole number."""
    return math.ceil(density * n * (1 - 1e-12))


class TopK(Codec):
    """Of n elements the k = ⌈density n⌉ largest in magnitude travel: their places and their values.

    Wire: 8 k bytes (int32 and float32), of every chunk of the route's on its own. Biased: what does not travel is kept
    by error feedback until it is large enough. Where a route passes partial sums on, each rank chooses anew.
    Source: Aji & Heafield 2017, "Sparse Communication for Distributed Gradient Descent", arXiv 1704.05021; with error
    feedback Stich et al. 2018, arXiv 1809.07599.
    """

    Options = TopKOptions

    def __init__(self, options, xp):
        super().__init__(options, xp)
        self.density = options.density

    def size(self, n):
        return 8 * count(self.density, n)

    def encode(self, x, payload, turn):
        places, values = self.split(payload, len(x))
        rest = len(x) - len(places)
        if rest:
            places[...] = self.xp.argpartition(self.xp.abs(x), rest)[rest:]
            places.sort()  # neighbours in memory one after the other
        else:
            places[...] = self.xp.arange(len(x))
        values[...] = x[places]

    def decode(self, payload, out):
        out.fill(0)
        places, values = self.split(payload, len(out))
        out[places] = values

    def add(self, payload, out):
        places, values = self.split(payload, len(out))
        out[places] += values  # no place occurs twice

    def split(self, payload, n):
        """The places and the values in a payload of n elements."""
        k = count(self.density, n)
        return payload[: 4 * k].view(self.xp.int32), payload[4 * k : 8 * k].view(self.xp.float32)
