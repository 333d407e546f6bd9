"""Streaming DiLoCo: the model in fragments that have their averages in turn, each summed while the ranks go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Communicator, UnderWay
from mpidp.errors import UserError
from mpidp.nn.layer import Parameter
from mpidp.options import option
from mpidp.strategies.base import Setup, Step
from mpidp.strategies.local import CountedSteps
from mpidp.strategies.outer import OuterSGD
from mpidp.strategies.state import prefixed, unprefixed


@dataclass
class StreamingOptions:
    period: int = option(8, "steps between two averagings of a fragment", minimum=1)
    fragments: int = option(2, "runs of whole tensors that are averaged in turn; divides --period", minimum=1)
    delay: int = option(1, "steps from the start of a fragment's sum to its use", minimum=0)
    blend: float = option(
        0.5, "share of the local parameters that stays when a sum is used", minimum=0, below=1
    )
    outer_lr: float | None = option(None, "outer learning rate (DiLoCo: 0.7)", above=0)
    outer_momentum: float | None = option(None, "outer Nesterov momentum (DiLoCo: 0.9)", minimum=0, below=1)

    def __post_init__(self):
        for name in ("outer_lr", "outer_momentum"):
            if getattr(self, name) is None:
                setattr(self, name, OuterSGD.defaults[name])
        period, fragments = self.period, self.fragments
        if period % fragments:
            raise UserError(
                f"--fragments {fragments} does not divide --period {period}: each fragment must have its turn every "
                "period/fragments steps; choose a divisor"
            )
        if self.delay >= period // fragments:
            raise UserError(
                f"--delay {self.delay} must be less than --period {period} / --fragments {fragments} = "
                f"{period // fragments} steps: a sum must be used before the next one starts"
            )


def cut(parameters: Sequence[Parameter], count: int) -> list[slice]:
    """The flat vector in `count` runs of whole tensors, cut where a tensor ends nearest to each k n / count.

    Raises UserError where there are fewer tensors than that.
    """
    ends = [parameter.hi for parameter in parameters]
    if len(ends) < count:
        raise UserError(
            f"--fragments {count}: this model has {len(ends)} tensors, which are not cut; choose {len(ends)} or less"
        )
    cuts, first = [0], 0
    for k in range(1, count):
        goal = k * ends[-1] / count
        possible = range(first, len(ends) - (count - k))  # a tensor is left for each fragment to come
        last = min(possible, key=lambda i: abs(ends[i] - goal))
        cuts.append(ends[last])
        first = last + 1
    cuts.append(ends[-1])
    return [slice(lo, hi) for lo, hi in pairwise(cuts)]


class Streaming(CountedSteps):
    """Each rank steps alone; fragment f of F has its average every H = `period` steps, at t = f H/F + k H.

        every step:   x_r ← optimizer(x_r, g_r)                g_r: mean over the rank's own samples
        at t:         Δ_f ← Σ_r (m_r / m) (a - x_r)            of fragment f: the sum starts, and goes on beside ...
        at t + τ:     u ← μ u + Δ_f;  a ← a - η_o (Δ_f + μ u)  ... τ = `delay` steps; a is the same bits on every rank
                      x_r ← α x_r + (1 - α) a                  α = `blend`: what is left of the steps of x_r alone

    a: the common model, of which each fragment has an outer optimizer (Nesterov's) of its own. m_r: samples of rank r
    since fragment f was last used, m = Σ m_r. A fragment is a run of whole tensors. F = 1, τ = 0, α = 0 is DiLoCo.
    The inner optimizer's state stays local. Clipping looks at the norm of the rank's own gradient.
    Consistency: replicas are apart always, by H steps of a fragment at most where α = 0.
    Cost: every H / F steps one all-reduce of a fragment, by ring 2 (P - 1) messages and 2 (n / F) (P - 1) / P bytes:
    the bytes of DiLoCo with the same H, 1 / F of its peak. It counts in the step that uses the sum (or in the merge or
    checkpoint that waits for it before).
    Source: Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", arXiv 2501.18512.
    """

    Options = StreamingOptions
    encodes = "changes"
    # A sum is under way when the suite merges and saves, but not where it ends a run without a merge, after 10 steps.
    cases = (
        {"period": 8, "fragments": 2, "delay": 2, "blend": 0.5},
        {"period": 3, "fragments": 3, "delay": 0},
    )

    def __init__(self, setup: Setup, options: StreamingOptions):
        super().__init__(setup, options)
        xp, n, dtype = setup.xp, setup.size, setup.dtype
        self.parts = cut(setup.parameters, options.fragments)
        self.gap = options.period // options.fragments
        self.scratch = setup.scratch(n)
        self.anchor = xp.empty(n, dtype)  # a
        self.outers = [
            OuterSGD(setup, part.stop - part.start, options.outer_lr, options.outer_momentum, True)
            for part in self.parts
        ]
        self.optimizer = setup.optimizer(0, n, self.anchor)
        self.samples = np.zeros(options.fragments)  # m_r
        self.total = np.zeros(options.fragments)  # m
        self.under_way: UnderWay | None = None
        # A sum beside the steps has messages and memory of its own, and they are counted when it is complete.
        self.link: Communicator = self.comm.Dup() if options.delay else self.comm
        self.sent: Array | None = None
        self.make_sum(self.link)

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: StreamingOptions) -> float:
        return 2 + bool(options.outer_momentum) + bool(options.delay)

    @classmethod
    def route_memory(cls, route, n, dtype, ranks, options: StreamingOptions) -> int:
        return 2 * route.scratch(
            n, ranks
        )  # of a merge, and of a fragment, of which one may be nearly all of it

    def allocate(self):
        if self.options.delay:
            longest = max(part.stop - part.start for part in self.parts)
            self.sent = self.setup.collective.allocate(self.link, longest, np.dtype(self.setup.dtype))
            self.comm.traffic.take(self.link.traffic)  # what ranks have waited for each other's memory
        return super().allocate()

    def start(self) -> None:
        super().start()
        self.anchor[...] = self.params

    def turn(self, t: int) -> int | None:
        """The fragment whose sum starts after step t."""
        return t // self.gap % len(self.parts) if t > 0 and t % self.gap == 0 else None

    def due(self, t: int) -> int | None:
        """The fragment whose sum is used after step t."""
        return self.turn(t - self.options.delay)

    def ready(self, lo: int, hi: int) -> None:
        self.advance()

    def advance(self) -> None:
        if self.under_way is not None:
            with self.communicating():
                self.under_way.advance()

    def step(self, step: Step) -> None:
        self.samples += step.samples
        self.total += step.total
        self.step_alone(step)
        turn, due = self.turn(step.t), self.due(step.t)
        if turn is not None:
            self.begin(turn)
        if due is not None:
            self.use(due, step.lr)

    def begin(self, fragment: int) -> None:
        """Start the sum of Δ_f."""
        part, delta = self.parts[fragment], self.delta(fragment)
        self.setup.xp.subtract(self.anchor[part], self.params[part], out=delta)
        delta *= self.share(fragment)
        with self.communicating():
            self.under_way = UnderWay(self.comm, self.summing.steps(delta, part.start))

    def delta(self, fragment: int) -> Array:
        """Where Δ_f is summed: in the gradient, which is used up, unless the next one comes meanwhile."""
        part = self.parts[fragment]
        return self.grads[part] if self.sent is None else self.sent[: part.stop - part.start]

    def share(self, fragment: int) -> float:
        """This rank's weight; ranks count alike where none has worked on a sample since."""
        samples, total = self.samples.item(fragment), self.total.item(fragment)
        return samples / total if total else 1 / self.comm.size

    def drain(self) -> None:
        if self.under_way is None:
            return
        with self.communicating():
            while not self.under_way.advance():
                self.under_way.wait()
        self.under_way = None
        if self.link is not self.comm:
            self.comm.traffic.take(self.link.traffic)

    def use(self, fragment: int, lr: float) -> None:
        """The outer step of a fragment."""
        self.drain()
        part, blend = self.parts[fragment], self.options.blend
        anchor, params = self.anchor[part], self.params[part]
        self.outers[fragment].step(anchor, self.delta(fragment), lr)
        if blend:
            params -= anchor
            params *= blend
            params += anchor
        else:
            params[...] = anchor
        self.samples[fragment] = self.total[fragment] = 0

    def merge(self, out) -> None:
        """out ← the weighted mean of the replicas (without the outer optimizers, whose steps are not due)."""
        self.drain()
        delta = self.setup.xp.subtract(self.anchor, self.params)
        for fragment, part in enumerate(self.parts):
            delta[part] *= self.share(fragment)
        with self.communicating():
            self.setup.collective.allreduce(self.comm, delta, self.scratch)
        self.setup.xp.subtract(self.anchor, delta, out=out)

    def counted(self):
        return self.parts

    def exact(self) -> bool:
        return False

    def cost(self, t: int) -> tuple[int, int]:
        due = self.due(t)
        if due is None:
            return 0, 0
        part = self.parts[due]
        return self.summing.cost(1, part.stop - part.start, part.start)

    def state(self):
        """After all ranks have finished the sum under way: what was summed is saved, not the messages."""
        self.drain()
        state = {"anchor": self.anchor, "samples": self.samples, "total": self.total}
        if self.sent is not None:
            state["sent"] = self.sent
        for fragment, outer in enumerate(self.outers):
            state |= prefixed(f"outer{fragment}", outer.state())
        return state | prefixed("optimizer", self.optimizer.state()) | self.sum_state()

    def load_state(self, state):
        for name in ("anchor", "samples", "total"):
            getattr(self, name)[...] = state[name]
        if self.sent is not None:
            self.sent[...] = state["sent"]
        for fragment, outer in enumerate(self.outers):
            outer.load_state(unprefixed(f"outer{fragment}", state))
        self.load_sum_state(state)
        self.optimizer.load_state(unprefixed("optimizer", state))
