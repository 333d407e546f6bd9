"""Outer optimizers: how the common model moves by the averaged change of the replicas. One class each.

x₀ is the common model, Δ = Σ_r w_r (x₀ - x_r) how far the replicas have come from it. Δ is a *gradient*: it points back
from where they went, so that x₀ descends along it. (Papers that write G = mean x - x₀ mean -Δ.)
"""

from typing import Any, ClassVar

from mpidp.arrays import Array
from mpidp.errors import UserError
from mpidp.strategies.base import Setup

OPTIONS = ("outer_lr", "outer_momentum", "outer_nesterov")


class Outer:
    """x₀ ← x₀ - Δ: the mean of the replicas as it is (local SGD, Stich 2018, arXiv 1805.09767).

    A subclass lists its options with their defaults and says how it moves with momentum; without any, all of them are
    x₀ ← x₀ - lr Δ. Everything is element by element, so that a fragment of the model can have one of its own.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        setup: Setup,
        n: int,
        lr: float | None = None,
        momentum: float | None = None,
        nesterov: bool | None = None,
    ):
        self.xp = setup.xp
        self.lr = 1.0 if lr is None else lr
        self.momentum = self.usual_momentum(setup.comm.size) if momentum is None else momentum
        self.nesterov = nesterov
        self.velocity = setup.xp.zeros(n, setup.dtype) if self.momentum else None

    @staticmethod
    def usual_momentum(ranks: int) -> float:
        """The momentum where none was chosen."""
        return 0.0

    @property
    def plain(self) -> bool:
        """Whether x₀ becomes the mean of the replicas."""
        return self.velocity is None and self.lr == 1

    def step(self, anchor: Array, delta: Array, lr: float) -> None:
        """Move `anchor`, which is x₀; `delta` is Δ, and used up. lr: the inner optimizer's learning rate now."""
        if self.velocity is None:
            delta *= self.lr
            anchor -= delta
        else:
            self.accelerate(anchor, delta, lr)

    def accelerate(self, anchor: Array, delta: Array, lr: float) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        return {} if self.velocity is None else {"momentum": self.velocity}

    def load_state(self, state: dict[str, Array]) -> None:
        if self.velocity is not None and "momentum" in state:  # another number of ranks may have gone without
            self.velocity[...] = state["momentum"]


class OuterSGD(Outer):
    """u ← μ u + Δ;  x₀ ← x₀ - η_o (Δ + μ u), or without Nesterov's look ahead x₀ ← x₀ - η_o u.

    With Nesterov this is DiLoCo's (Douillard et al. 2023, arXiv 2311.08105: η_o = 0.7, μ = 0.9), without it FedAvgM
    (Hsu et al. 2019, 1909.06335).
    """

    defaults: ClassVar = {"outer_lr": 0.7, "outer_momentum": 0.9, "outer_nesterov": True}

    def accelerate(self, anchor: Array, delta: Array, lr: float) -> None:
        u = self.velocity
        u *= self.momentum
        u += delta
        if self.nesterov:
            delta *= self.lr
            anchor -= delta
            self.xp.multiply(u, self.lr * self.momentum, out=delta)
        else:
            self.xp.multiply(u, self.lr, out=delta)
        anchor -= delta


class BMUF(Outer):
    """D ← m D - ζ Δ;  x₀ ← x₀ + D, or with Nesterov's block momentum x₀ ← x₀ + m D - ζ Δ.

    Chen & Huo 2016, "Scalable training of deep learning machines by incremental block training with intra-block
    parallel optimization and blockwise model-update filtering", ICASSP. By default ζ = 1 and m = 1 - 1 / P: in the
    long run x₀ then moves by ζ / (P (1 - m)) = 1 times what each replica does. In Nesterov's form x₀ is the model that
    is handed out, in the paper's letters W + m D.
    """

    defaults: ClassVar = {"outer_lr": 1.0, "outer_momentum": None, "outer_nesterov": False}

    @staticmethod
    def usual_momentum(ranks: int) -> float:
        return 1 - 1 / ranks

    def accelerate(self, anchor: Array, delta: Array, lr: float) -> None:
        filtered = self.velocity
        filtered *= self.momentum
        delta *= self.lr
        filtered -= delta
        if self.nesterov:
            anchor -= delta
            self.xp.multiply(filtered, self.momentum, out=delta)
            anchor += delta
        else:
            anchor += filtered


class SlowMo(Outer):
    """u ← β u + Δ / η;  x₀ ← x₀ - α η u, with η the inner optimizer's learning rate in the step of the average.

    Wang et al. 2019, arXiv 1910.00643. u is in units of the gradient, so that it keeps its worth when a schedule
    changes η; with η constant this is BMUF with ζ = α, m = β. Where a schedule ends at η = 0, x₀ moves by α Δ alone.
    """

    defaults: ClassVar = {"outer_lr": 1.0, "outer_momentum": 0.5}

    def accelerate(self, anchor: Array, delta: Array, lr: float) -> None:
        u = self.velocity
        u *= self.momentum
        if lr:
            delta /= lr
            u += delta
            self.xp.multiply(u, self.lr * lr, out=delta)
        else:
            delta *= self.lr
        anchor -= delta


OUTER: dict[str, type[Outer]] = {"average": Outer, "sgd": OuterSGD, "bmuf": BMUF, "slowmo": SlowMo}


def fill_in(options: Any) -> None:
    """Give `options`, which names one of these in `outer`, its defaults; refuse what that one does not use."""
    chosen = OUTER[options.outer].defaults
    for name in OPTIONS:
        if name in chosen:
            if getattr(options, name) is None:
                setattr(options, name, chosen[name])
        elif getattr(options, name) is not None:
            users = "|".join(kind for kind, outer in OUTER.items() if name in outer.defaults)
            raise UserError(
                f"--{name.replace('_', '-')} is used by --outer {users}; this run has --outer {options.outer}"
            )
