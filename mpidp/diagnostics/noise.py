"""How noisy the gradient is, and what batch size that suggests."""

from collections.abc import Sequence
from typing import Any

from mpidp.comm import Communicator
from mpidp.diagnostics.base import Diagnostic
from mpidp.optim import squared_norm
from mpidp.strategies import Step, Strategy

DECAY = 0.99
"""Of the moving averages of the noise scale's two parts: one step's estimates are far too noisy themselves."""


class NoiseScale(Diagnostic):
    """The simple noise scale B = tr(Σ) / |G|²: the batch at which a gradient is as much noise as signal.

    Below it a larger batch saves steps for almost nothing, above it samples for almost no steps
    (McCandlish et al. 2018, 1812.06162, section 2.2). Estimated as in its appendix A.1 from gradients of two sizes of
    batch: rank r's own mean gradient ḡ_r over m_r samples, and the mean ḡ over all m = Σ m_r,

        S = Σ_r (m_r / m) |ḡ_r|²:    E S = |G|² + tr(Σ) K / m        over the K ranks that have samples in this step
                                     E |ḡ|² = |G|² + tr(Σ) / m
        tr(Σ) ≈ (S - |ḡ|²) m / (K - 1);    |G|² ≈ (K |ḡ|² - S) / (K - 1)

    Weighing ranks by their samples makes uneven shards right; a step with K = 1 tells nothing and is left out. Both
    parts are averaged over steps (decay 0.99) before one is divided by the other. Cost: a small gather a logged step.
    """

    def __init__(self, strategy: Strategy, comm: Communicator):
        self.strategy, self.comm = strategy, comm
        self.own = 0.0  # |grads|² of this rank before the sum
        self.seen: list[tuple[int, float, float | None]] = []  # steps to be averaged: m, |ḡ|², our part of S
        self.gradient, self.variance, self.steps = 0.0, 0.0, 0

    def ready(self, lo: int, hi: int) -> None:
        self.own += squared_norm(self.strategy.grads[lo:hi])

    def after(self, step: Step, logged: bool) -> dict[str, Any]:
        if step.total:  # else it was left out, by all ranks
            ours = self.own * step.total / step.samples if step.samples else None  # grads = m_r / m ḡ_r
            self.seen.append((step.total, squared_norm(self.strategy.grads), ours))
        self.own = 0.0
        if not logged:
            return {}
        everyone = self.comm.allgather([part for _, _, part in self.seen])
        for (total, mean, _), parts in zip(self.seen, zip(*everyone, strict=True), strict=True):
            self.add(total, mean, [part for part in parts if part is not None])
        self.seen = []
        return self.summary()

    def add(self, total: int, mean: float, parts: Sequence[float]) -> None:
        """Take a step's two estimates into the averages; total: m, mean: |ḡ|², parts: the terms of S."""
        ranks, spread = len(parts), sum(parts)
        if ranks > 1:
            self.gradient += (1 - DECAY) * ((ranks * mean - spread) / (ranks - 1) - self.gradient)
            self.variance += (1 - DECAY) * ((spread - mean) * total / (ranks - 1) - self.variance)
            self.steps += 1

    def summary(self) -> dict[str, Any]:
        """noise_scale in samples; None as long as the gradient is not to be told from noise."""
        if self.steps == 0:
            return {}
        weight = 1 - DECAY**self.steps
        gradient, variance = self.gradient / weight, self.variance / weight
        return {
            "gradient_norm_squared": gradient,
            "gradient_variance": variance,
            "noise_scale": variance / gradient if gradient > 0 else None,
        }

    def facts(self) -> dict[str, Any]:
        return {"noise": [self.gradient, self.variance, self.steps]}

    def load(self, facts: dict[str, Any]) -> None:
        gradient, variance, steps = facts.get("noise", (0.0, 0.0, 0))
        self.gradient, self.variance, self.steps = float(gradient), float(variance), int(steps)
        self.seen = []
