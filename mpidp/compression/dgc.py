"""Deep Gradient Compression: top-k of a gradient that gathers momentum on its own rank."""

import math
from dataclasses import dataclass

from mpidp.arrays import Array
from mpidp.compression.momentum import LocalMomentum
from mpidp.compression.topk import TopK
from mpidp.optim import clip_scale, squared_norm
from mpidp.options import option

DENSE = 0.25  # the density with which the warm-up begins


@dataclass
class DGCOptions:
    density: float = option(0.01, "share of the elements that travel", above=0, maximum=1)
    density_warmup: int = option(
        0, f"steps in which the density falls from {DENSE} to --density, by the same factor each", minimum=0
    )
    local_momentum: float = option(
        0.9, "momentum of every rank's own gradient, before it is encoded", minimum=0, below=1
    )
    local_clip: float | None = option(
        None, "limit on the gradient's norm, applied by every rank to its own, as 1/√P of it", above=0
    )


class Masking(TopK):
    """Top-k, after which the momentum of what was sent begins anew."""

    momentum: Array

    def encode(self, x, payload, turn):
        super().encode(x, payload, turn)
        places, _ = self.split(payload, len(x))
        self.momentum[turn.start + places] = 0


class DGC(LocalMomentum):
    """On every rank, with the gradient g_r that it computed (already divided by the global batch):

        g_r ← g_r min(1, c / (√P ‖g_r‖))           where `--local-clip c` asks for it
        u_r ← μ u_r + g_r;   v_r ← v_r + u_r       momentum correction; what was not sent gathers in v
        send the largest of v_r;   u_r, v_r ← 0 where sent           momentum factor masking

    v is the residual of error feedback, so all else is as with `topk`: where a route passes partial sums on, a rank
    chooses among what came and its own v together. Since the momentum is here, the optimizer has none: it is plain SGD
    (weight decay is the optimizer's). The density may begin at 0.25 and fall by the same factor every step (in the
    paper to a quarter every epoch, four times). Wire: 8 ⌈density n⌉ bytes.
    Source: Lin et al. 2018, arXiv 1712.01887.
    """

    Options = DGCOptions
    coded = True
    at_once = True
    unfit = {
        "changes": "it gathers the momentum of gradients, and a change of the parameters has had its momentum",
        "pushes": "its density goes by the step, which a server that hears of ranks one by one does not know",
    }

    def __init__(self, place, options):
        super().__init__(place, Masking(options, place.xp), feedback=True)
        self.codec.momentum = self.momentum

    @classmethod
    def extra_vectors(cls, options):
        return 2  # u and v

    @classmethod
    def misfit(cls, optimizer, options):
        if optimizer != "sgd" or options.momentum:
            return (
                "it has the momentum itself (--local-momentum), and wants --optimizer sgd without --momentum"
            )
        return None

    def begin(self, buffer, bounds, start=0, lane=0):
        self.codec.density = self.density(self.turns.get(start, 0) + 1)
        return super().begin(buffer, bounds, start, lane)

    def gather(self, gradient, momentum, t):
        limit = self.options.local_clip
        if limit is not None:
            gradient *= clip_scale(math.sqrt(squared_norm(gradient) * self.comm.size), limit)
        super().gather(gradient, momentum, t)

    def density(self, t: int) -> float:
        """That of step t = 1, 2, ..."""
        last, steps = self.options.density, self.options.density_warmup
        if t > steps or last >= DENSE:
            return last
        return DENSE * (last / DENSE) ** ((t - 1) / steps)

    def cost(self, t=1, n=None, start=0):
        self.codec.density = self.density(t)
        return super().cost(t, n)

    def scatter_cost(self, t=1):
        self.codec.density = self.density(t)
        return super().scatter_cost(t)
