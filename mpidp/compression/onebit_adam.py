"""1-bit Adam: plain Adam at first, then a fixed second moment and a momentum that travels in one bit an element."""

from dataclasses import dataclass

from mpidp.compression.codec import BlockOptions
from mpidp.compression.coded import Coded
from mpidp.compression.onebit import OneBit
from mpidp.options import option


@dataclass
class OneBitAdamOptions(BlockOptions):
    freeze_after: int = option(
        100,
        "steps of plain Adam before the second moment is fixed and the momentum travels encoded",
        minimum=1,
    )


class OneBitAdam(Coded):
    """Steps 1 .. N = `--freeze-after`: all-reduce and AdamW. From then on v, Adam's second moment, stays as it is, and

        on rank r:       m_r ← β₁ m + (1 - β₁) P g_r          what m would be if all gradients were this rank's
        over the ranks:  m ← C(Σ_r C(m_r) / P)                C: `onebit`, with error feedback on both sides
        everywhere:      x ← x - lr m̂ / (√v̂ + ε)

    N is to be long enough for v to have settled: the paper takes 15 to 20 % of a run. A parameter whose v is 0 by then
    (a pixel that is always black, a token not seen yet) gets no further step: one bit cannot say 0, and a step by
    anything else over √0 has no limit. Weight decay is AdamW's.

    The seam to the optimizer: AdamW holds M = m / (1 - β₁) and makes M ← β₁ M + g. So the ranks sum β₁ M / P + g_r, of
    which the encoding makes S, and AdamW is handed the gradient S - β₁ M, with which its M becomes S; `freeze_after`
    tells it to leave its second moment alone, and the correction of its bias, after update N.
    Wire: n / 8 + 4 ⌈n / B⌉ bytes; before, 4 n.
    Source: Tang et al. 2021, arXiv 2102.02888.
    """

    Options = OneBitAdamOptions
    coded = True
    hops = False
    at_once = True
    clips = False
    unfit = {
        "changes": "it is Adam's momentum that travels, every step",
        "chunks": "a rank adds its gradient to the whole momentum, of which it has a chunk here",
        "pushes": "a rank adds its gradient to the momentum, which a server keeps to itself",
    }

    def __init__(self, place, options):
        super().__init__(place, OneBit(options, place.xp), options.error_feedback)

    @classmethod
    def misfit(cls, optimizer, options):
        return None if optimizer == "adamw" else "it is a form of Adam, and wants --optimizer adamw"

    def accompany(self, optimizer):
        self.beta1 = optimizer.options.beta1
        self.mean, self.square = (optimizer.state()[name] for name in ("mean", "square"))
        optimizer.freeze_after = self.options.freeze_after

    def steps(self, buffer, start=0, lane=0):
        if self.turns.get(start, 0) < self.options.freeze_after:
            self.next_turn(start)
            yield from self.route_steps(buffer, lane)
            return
        buffer += (self.beta1 / self.comm.size) * self.mean
        yield from super().steps(buffer, start, lane)
        buffer *= self.square > 0
        buffer -= self.beta1 * self.mean

    def cost(self, t=1, n=None, start=0):
        if t <= self.options.freeze_after:
            return self.route_cost(self.route.cost, n)
        return super().cost(t, n)
