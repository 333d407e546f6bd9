"""Random-k: a few elements, drawn alike on all ranks, so that their values travel alone."""

from dataclasses import dataclass, replace

from mpidp.arrays import Array
from mpidp.compression.codec import Feedback
from mpidp.compression.feedback import FeedbackSum
from mpidp.compression.topk import count
from mpidp.compression.turn import Turn
from mpidp.options import option


@dataclass
class RandomKOptions(Feedback):
    density: float = option(0.1, "share of the elements that travel", above=0, maximum=1)


class RandomK(FeedbackSum):
    """Of n elements k = ⌈density n⌉ travel: one of each of k stretches of equal length, drawn anew for every sum.

    All ranks draw the same ones, from (seed, number of the sum): their values are summed by any route, as a plain
    vector, and no places travel. What was not drawn is kept by error feedback; without it (`--no-error-feedback`) what
    was drawn is multiplied by the length of its stretch instead, n / k or next to it, which makes it unbiased.
    Wire: k values of the vector's type.
    Source: Stich et al. 2018, "Sparsified SGD with Memory", arXiv 1809.07599; alike on all ranks as in Vogels et al.
    2019, 1905.13727.
    """

    Options = RandomKOptions
    unfit = {"pushes": "its places are those that all ranks draw in the same step, and a server draws none"}

    def __init__(self, place, options):
        super().__init__(place, options, options.error_feedback)

    def steps(self, buffer, start=0, lane=0):
        kept = self.kept(start, buffer.size)
        places, stretches = self.draw(buffer.size, self.next_turn(start))
        values = self.values(len(places), lane)
        if kept is None:
            values[...] = buffer[places]
            values *= stretches
        else:
            kept += buffer
            values[...] = kept[places]
            kept[places] = 0
        yield from self.route_steps(values, lane)
        buffer.fill(0)
        buffer[places] = values

    def draw(self, n: int, turn: Turn) -> tuple[Array, Array]:
        """The places, in ascending order, and the length of the stretch that each is one of."""
        k = count(self.options.density, n)
        bounds = self.xp.arange(k + 1, dtype=self.xp.int64) * n // max(k, 1)
        stretches = bounds[1:] - bounds[:-1]
        shares = replace(turn, rank=0).draws(self.xp).random(k)
        return bounds[:-1] + (shares * stretches).astype(self.xp.int64), stretches

    def values(self, count: int, lane: int) -> Array:
        """Memory of the route's, in which so many values are summed."""
        memory = self.memory.get(("values", lane))
        if memory is None or memory.size < count:
            memory = self.memory["values", lane] = self.route.allocate(self.comm, count, self.place.dtype)
        return memory[:count]

    def reduce_scatter(self, vector):
        self.allreduce(vector)

    def cost(self, t=1, n=None, start=0):
        return super().cost(t, count(self.options.density, self.place.n if n is None else n))

    def scatter_cost(self, t=1):
        return self.cost()
