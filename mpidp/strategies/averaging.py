"""Periodic model averaging: local SGD, post-local SGD and DiLoCo."""

from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step, Strategy, counter, prefixed, unprefixed


@dataclass
class AveragingOptions:
    period: int = option(8, "steps that a rank takes alone between two averagings", minimum=1)
    outer: str = option(
        "average",
        "what is done with the averaged change: taken as it is, or by SGD",
        choices=("average", "sgd"),
    )
    outer_lr: float | None = option(None, "learning rate of --outer sgd (0.7, as in DiLoCo)", above=0)
    outer_momentum: float | None = option(
        None, "Nesterov momentum of --outer sgd (0.9, as in DiLoCo)", minimum=0, below=1
    )
    sync_steps: int = option(0, "first take so many steps by all-reduce (post-local SGD)", minimum=0)

    def __post_init__(self):
        if self.outer == "average":
            for name in ("outer_lr", "outer_momentum"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name.replace('_', '-')} is used by --outer sgd alone: add --outer sgd, or leave it out"
                    )
        else:
            self.outer_lr = 0.7 if self.outer_lr is None else self.outer_lr
            self.outer_momentum = 0.9 if self.outer_momentum is None else self.outer_momentum


class Averaging(Strategy):
    """Each rank steps alone; every H = `period` steps the replicas become one.

        every step:      x_r ← optimizer(x_r, g_r)              g_r: mean over the rank's own samples
        every H steps:   Δ ← Σ_r (m_r / m) (x₀ - x_r)           m_r: samples of rank r since x₀, m = Σ m_r
                         u ← μ u + Δ;  x₀ ← x₀ - η_o (Δ + μ u)  on every rank, the same bits
                         x_r ← x₀

    `--outer average` is η_o = 1, μ = 0: x₀ becomes the mean of the replicas (local SGD, Stich 2018, 1805.09767).
    `--outer sgd` is DiLoCo (Douillard et al. 2023, 2311.08105: η_o = 0.7, μ = 0.9, H = 500, inner AdamW); note
    the sign of Δ, which is a gradient. `--sync-steps t₀` takes the first t₀ steps by all-reduce (post-local SGD,
    Lin et al. 2018, 1808.07217). The inner optimizer's state stays local. A rank without samples in a step rests.
    Clipping looks at the norm of the gradient that is applied: the rank's own, in the first t₀ steps the mean.
    Cost: one all-reduce of n elements every H steps, so 2 (P - 1) / H messages a step by ring.
    """

    Options = AveragingOptions
    depends_on_ranks = (
        "has each rank step on its own samples, so that their number is part of what it computes"
    )
    replicated = False
    cases = (
        {"period": 1},
        {"period": 3},
        {"period": 4, "outer": "sgd"},
        {"period": 3, "outer": "sgd", "outer_momentum": 0.0, "outer_lr": 0.5},
        {"period": 1, "sync_steps": 5},
        {"period": 3, "sync_steps": 4, "outer": "sgd"},
    )

    def __init__(self, setup: Setup, options: AveragingOptions):
        super().__init__(setup, options)
        xp, n = setup.xp, setup.size
        self.scratch = setup.scratch(n)
        self.anchor = xp.empty(n, setup.dtype)  # x₀
        self.momentum = xp.zeros(n, setup.dtype) if options.outer_momentum else None  # u
        self.optimizer = setup.optimizer(0, n, self.anchor)
        self.samples = 0  # m_r
        self.total = 0  # m

    @classmethod
    def extra_vectors(cls, options: AveragingOptions) -> int:
        return 2 if options.outer_momentum else 1

    def start(self) -> None:
        super().start()
        self.anchor[...] = self.params

    def together(self, t: int) -> bool:
        """Whether step t is one of the first, which all ranks take together."""
        return t <= self.options.sync_steps

    def sums(self, t: int) -> bool:
        """Whether step t sums a vector over ranks."""
        return self.together(t) or (t - self.options.sync_steps) % self.options.period == 0

    def scale(self, step: Step) -> float:
        return 1.0 / (step.total if self.together(step.t) else max(step.samples, 1))

    def step(self, step: Step) -> None:
        if self.together(step.t):
            self.allreduce(self.grads)
            self.step_inner(step)
            self.anchor[...] = self.params
            return
        self.samples += step.samples
        self.total += step.total
        if step.samples:
            self.step_inner(step)
        if self.sums(step.t):
            self.average()

    def step_inner(self, step: Step) -> None:
        scale = self.clip_factor(self.squared_norm(self.grads))
        self.optimizer.step(self.params, self.grads, 0, step.lr, step.t, scale)

    def average(self) -> None:
        """The outer step."""
        delta = self.grads  # its gradient is used up
        self.change(delta)
        lr = self.options.outer_lr or 1.0
        if self.momentum is not None:
            mu = self.options.outer_momentum
            self.momentum *= mu
            self.momentum += delta
            self.anchor -= (lr * mu) * self.momentum
        self.anchor -= lr * delta
        self.params[...] = self.anchor
        self.samples = self.total = 0

    def change(self, out) -> None:
        """out ← Σ_r (m_r / m) (x₀ - x_r)."""
        self.setup.xp.subtract(self.anchor, self.params, out=out)
        out *= self.samples / self.total
        self.allreduce(out)

    def allreduce(self, vector) -> None:
        with self.communicating():
            self.setup.collective.allreduce(self.comm, vector, self.scratch)

    def merge(self, out) -> None:
        """out ← the weighted mean of the replicas (without the outer optimizer, whose step is not due)."""
        if self.total == 0:
            return super().merge(out)
        delta = self.setup.xp.empty_like(self.params)
        self.change(delta)
        self.setup.xp.subtract(self.anchor, delta, out=out)

    def exact(self) -> bool:
        return self.options.outer == "average" and (self.options.period == 1 or self.comm.size == 1)

    def cost(self, t: int) -> tuple[int, int]:
        return self.allreduce_cost() if self.sums(t) else (0, 0)

    def state(self):
        state = {"anchor": self.anchor, "samples": counter(self.samples), "total": counter(self.total)}
        if self.momentum is not None:
            state["momentum"] = self.momentum
        return state | prefixed("optimizer", self.optimizer.state())

    def load_state(self, state):
        self.anchor[...] = state["anchor"]
        self.samples, self.total = int(state["samples"][0]), int(state["total"][0])
        if self.momentum is not None:
            self.momentum[...] = state["momentum"]
        self.optimizer.load_state(unprefixed("optimizer", state))
