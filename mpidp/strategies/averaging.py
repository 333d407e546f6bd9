"""Periodic model averaging: local SGD, post-local SGD, hierarchical periods, BMUF, SlowMo and DiLoCo."""

from dataclasses import dataclass

import numpy as np

from mpidp.comm import Communicator
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step
from mpidp.strategies.local import CountedSteps, WithoutHosts
from mpidp.strategies.outer import OUTER, fill_in
from mpidp.strategies.speeds import Speeds
from mpidp.strategies.state import amount, counter, prefixed, unprefixed

SAMPLES = 4  # message tag


@dataclass
class AveragingOptions:
    period: int = option(8, "steps that a rank takes alone between two averagings", minimum=1)
    node_period: int | None = option(
        None, "steps between two averagings among the ranks of one host; divides --period", minimum=1
    )
    outer: str = option(
        "average", "what is done with the averaged change: taken as it is, or by momentum", choices=OUTER
    )
    outer_lr: float | None = option(
        None, "outer learning rate (DiLoCo: 0.7), ζ of bmuf (1), α of slowmo (1)", above=0
    )
    outer_momentum: float | None = option(
        None, "outer momentum (DiLoCo: 0.9), of bmuf (1 - 1/ranks), β of slowmo (0.5)", minimum=0, below=1
    )
    outer_nesterov: bool | None = option(
        None, "look ahead along the outer momentum (--outer sgd: yes, bmuf: no)"
    )
    sync_steps: int = option(0, "first take so many steps by all-reduce (post-local SGD)", minimum=0)
    adapt_steps: bool = option(
        False, "give slow ranks fewer steps between two averagings, so that nobody waits for them"
    )

    def __post_init__(self):
        fill_in(self)
        if self.node_period is not None and self.period % self.node_period:
            raise UserError(
                f"--node-period {self.node_period} does not divide --period {self.period}: the averaging over all "
                "ranks would come between two of a host's own; choose a divisor"
            )
        if self.adapt_steps and self.period == 1:
            raise UserError(
                "--adapt-steps gives slow ranks fewer of --period steps, of which 1 leaves no fewer: raise it"
            )
        if self.adapt_steps and self.node_period is not None:
            raise UserError(
                f"--adapt-steps: ranks of a host meet every --node-period {self.node_period} steps all the same: leave "
                "one of the two out"
            )


class Averaging(CountedSteps):
    """Each rank steps alone; every H = `period` steps the replicas become one.

        every step:      x_r ← optimizer(x_r, g_r)              g_r: mean over the rank's own samples
        every H steps:   Δ ← Σ_r (m_r / m) (x₀ - x_r)           m_r: samples of rank r since x₀, m = Σ m_r
                         x₀ ← outer(x₀, Δ)                      on every rank, the same bits
                         x_r ← x₀

    `--outer average` makes x₀ the mean of the replicas (local SGD, Stich 2018, 1805.09767), `sgd` is DiLoCo, `bmuf` and
    `slowmo` are what they are called: see `outer.py`. `--sync-steps t₀` takes the first t₀ steps by all-reduce
    (post-local SGD, Lin et al. 2018, 1808.07217). `--node-period h` also has the ranks of one host average among
    themselves, every h steps, without the outer optimizer (hierarchical local SGD, 1808.07217; Wang et al. 2020,
    2010.12998). It weights rank r by s_r / S, its share of the host's samples since the host's last average; in Δ
    its weight then is (M / m) (s_r / S), M being the host's samples since x₀.
    The inner optimizer's state stays local: it is neither averaged nor reset. A rank without samples in a step rests.
    Clipping looks at the norm of the gradient that is applied: the rank's own, in the first t₀ steps the mean.
    `--adapt-steps` has slow ranks leave out the last steps before an average (`speeds.py`).
    Consistency: replicas drift for H steps, then are equal.
    Cost: one all-reduce of n elements every H steps, so 2 (P - 1) / H messages a step by ring. With h also one among
    the L ranks of a host every h steps, and at every average, of the host or of all, L - 1 messages of 8 bytes.
    """

    Options = AveragingOptions
    encodes = "changes"
    cases = (
        {"period": 1},
        {"period": 4, "outer": "sgd"},
        {"period": 8, "node_period": 2, "outer": "bmuf"},
        {"period": 1, "sync_steps": 5},
        {"period": 3, "sync_steps": 4, "outer": "slowmo"},
        {"period": 4, "adapt_steps": True},
    )

    def __init__(self, setup: Setup, options: AveragingOptions):
        super().__init__(setup, options)
        xp, n = setup.xp, setup.size
        node_period = options.node_period or options.period
        self.local: Communicator | None = self.comm.local() if node_period < options.period else None
        self.scratch = setup.scratch(n, self.comm, *filter(None, [self.local]))
        self.make_sum()  # of Δ; the first t₀ steps, averages inside a host and merges are as they are
        self.anchor = xp.empty(n, setup.dtype)  # x₀
        outer = OUTER[options.outer]
        self.outer = outer(setup, n, options.outer_lr, options.outer_momentum, options.outer_nesterov)
        self.optimizer = setup.optimizer(0, n, self.anchor)
        self.samples = 0.0  # m_r; with averages inside the host s_r
        self.host = 0.0  # M, without what its ranks have worked on since its last average
        self.total = 0.0  # m; with adapted steps of the samples of all ranks, worked on or not
        self.speeds = Speeds(self.comm, options.period) if options.adapt_steps else None
        self.deterministic = self.speeds is None  # by what ranks measure

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: AveragingOptions) -> float:
        accelerated = "outer_momentum" in OUTER[options.outer].defaults and options.outer_momentum != 0
        return 3 if accelerated else 2

    @classmethod
    def route_memory(cls, route, n, dtype, ranks, options: AveragingOptions) -> int:
        """One piece for averages of Δ; another for sums as they are, inside hosts too, maybe of two ranks."""
        few = 2 if options.node_period and ranks > 1 else ranks
        return route.scratch(n, ranks) + max(route.scratch(n, ranks), route.scratch(n, few))

    def start(self) -> None:
        super().start()
        self.anchor[...] = self.params

    def together(self, t: int) -> bool:
        """Whether step t is one of the first, which all ranks take together."""
        return t <= self.options.sync_steps

    def averages(self, t: int) -> bool:
        """Whether all ranks average after step t."""
        return not self.together(t) and (t - self.options.sync_steps) % self.options.period == 0

    def averages_inside(self, t: int) -> bool:
        """Whether the ranks of each host average after step t, and not all."""
        if self.local is None or self.together(t) or self.averages(t):
            return False
        return (t - self.options.sync_steps) % self.options.node_period == 0

    def behind(self, t: int) -> bool:
        if self.speeds is None or self.together(t):
            return False
        return self.speeds.leaves_out((t - self.options.sync_steps - 1) % self.options.period + 1)

    def scale(self, step: Step) -> float:
        if self.speeds:
            self.speeds.begin()
        return 1.0 / step.total if self.together(step.t) else super().scale(step)

    def step(self, step: Step) -> None:
        if self.together(step.t):
            self.sum(self.grads)
            self.step_by(self.grads, step)
            self.anchor[...] = self.params
            return
        self.samples += step.samples
        self.total += step.total
        self.step_alone(step)
        if self.speeds:
            self.speeds.stepped(step.samples, step.total)
        if self.averages(step.t):
            if self.speeds:
                with self.communicating():
                    self.total = self.speeds.next_round(self.samples)
            self.average(step.lr)
        elif self.averages_inside(step.t):
            self.average_inside()

    def skip(self, step: Step) -> None:
        if self.total:  # else replicas are equal, and there is nothing to average
            super().skip(step)

    def average(self, lr: float) -> None:
        """The outer step."""
        delta = self.grads  # its gradient is used up
        self.change(delta, self.share())
        with self.communicating():
            self.summing.allreduce(delta)
        self.outer.step(self.anchor, delta, lr)
        self.params[...] = self.anchor
        self.samples = self.host = self.total = 0

    def change(self, out, share: float) -> None:
        """out ← share (x₀ - x_r), of which Δ is the sum."""
        self.setup.xp.subtract(self.anchor, self.params, out=out)
        out *= share

    def share(self) -> float:
        """This rank's weight in Δ: m_r / m."""
        if self.local is None:
            return self.samples / self.total if self.total else 0.0  # nobody has changed anything
        share, samples = self.share_inside()
        return share * ((self.host + samples) / self.total)

    def sum(self, vector, comm: Communicator | None = None) -> None:
        with self.communicating():
            self.setup.collective.allreduce(comm or self.comm, vector, self.scratch)

    # Inside a host

    def average_inside(self) -> None:
        """x_r ← Σ (s_r / S) x_r over the ranks of this host, all of which know x₀."""
        delta = self.grads
        share, samples = self.share_inside()
        self.change(delta, share)
        self.sum(delta, self.local)
        self.setup.xp.subtract(self.anchor, delta, out=self.params)
        self.host += samples
        self.samples = 0

    def share_inside(self) -> tuple[float, float]:
        """(s_r / S, S): of the samples of this host since its last average."""
        samples = self.samples_inside()
        return (self.samples / samples if samples else 1 / self.local.size), samples

    def samples_inside(self) -> float:
        """S. Cost: a message of 8 bytes to every other rank of the host."""
        comm = self.local
        counts = [amount(self.samples) for _ in range(comm.size)]
        others = [rank for rank in range(comm.size) if rank != comm.rank]
        with self.communicating():
            receives = [comm.Irecv(counts[rank], rank, SAMPLES) for rank in others]
            comm.Wait(*receives, *[comm.Isend(counts[comm.rank], rank, SAMPLES) for rank in others])
        return float(np.sum(counts))

    def merge(self, out) -> None:
        """out ← the weighted mean of the replicas (without the outer optimizer, whose step is not due)."""
        if self.total == 0:
            return super().merge(out)
        delta = self.setup.xp.empty_like(self.params)
        share = self.share()
        if self.speeds:
            share = self.samples / self.speeds.total(self.samples)
        self.change(delta, share)
        self.sum(delta)
        self.setup.xp.subtract(self.anchor, delta, out=out)

    def exact(self) -> bool:
        return self.outer.plain and (self.options.period == 1 or self.comm.size == 1)

    def cost(self, t: int) -> tuple[int, int]:
        if self.together(t):
            return self.allreduce_cost()
        if self.averages(t) and self.local is None:
            (messages, sent), (more, bytes_more) = (
                self.summing.cost(),
                self.speeds.cost() if self.speeds else (0, 0),
            )
            return messages + more, sent + bytes_more
        if self.averages(t):
            messages, sent = self.summing.cost()
        elif self.averages_inside(t):
            messages, sent = self.route_cost(self.setup.collective.cost, comm=self.local)
        else:
            return 0, 0
        others = self.local.size - 1
        return messages + others, sent + 8 * others

    def report(self):
        return {"local_steps_by_rank": self.speeds.steps} if self.speeds else {}

    def summary(self):
        return self.speeds.summary() if self.speeds else {}

    def regroup(self, saved):
        return super().regroup(saved if self.local is None else WithoutHosts(saved))

    def state(self):
        state = {"anchor": self.anchor, "samples": amount(self.samples), "total": amount(self.total)}
        if self.local is not None:
            state |= {"host": amount(self.host), "place": counter(self.comm.hosts()[self.comm.rank])}
        if self.speeds:
            state["local_steps"] = self.speeds.state()
        return state | self.outer.state() | prefixed("optimizer", self.optimizer.state()) | self.sum_state()

    def load_state(self, state):
        self.anchor[...] = state["anchor"]
        self.samples, self.total = float(state["samples"][0]), float(state["total"][0])
        if self.local is not None:
            self.host = float(state["host"][0])
        if self.speeds:
            self.speeds.load_state(state["local_steps"])
        self.outer.load_state(state)
        self.load_sum_state(state)
        self.optimizer.load_state(unprefixed("optimizer", state))
