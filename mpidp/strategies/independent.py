"""No synchronisation at all: one-shot averaging."""

from mpidp.strategies.base import Setup, Step
from mpidp.strategies.local import CountedSteps
from mpidp.strategies.state import amount, prefixed, unprefixed


class Independent(CountedSteps):
    """x_r ← optimizer(x_r, g_r) on every rank alone; at the end x ← Σ_r (m_r / m) x_r.

    m_r: samples that rank r has worked on, m = Σ m_r. Every replica starts from the same parameters.
    The gradient is the mean over the rank's own samples, and its norm is what clipping looks at.
    Consistency: none until the merge. Cost: none a step; one all-reduce in all.
    Source: Zinkevich et al. 2010, "Parallelized Stochastic Gradient Descent", NIPS 23.
    """

    why_plain = "sends nothing while it trains"

    def __init__(self, setup: Setup, options):
        super().__init__(setup, options)
        self.scratch = setup.scratch(setup.size)
        self.optimizer = setup.optimizer(0, setup.size, self.scratch)
        self.samples = 0.0
        self.total = 0.0

    def step(self, step: Step) -> None:
        self.samples += step.samples
        self.total += step.total
        self.step_alone(step)

    def merge(self, out) -> None:
        if self.total == 0:
            return super().merge(out)
        self.setup.xp.multiply(self.params, self.samples / self.total, out=out)
        with self.communicating():
            self.setup.collective.allreduce(self.comm, out, self.scratch)

    def exact(self) -> bool:
        return self.comm.size == 1

    def state(self):
        counts = {"samples": amount(self.samples), "total": amount(self.total)}
        return counts | prefixed("optimizer", self.optimizer.state())

    def load_state(self, state):
        self.samples, self.total = float(state["samples"][0]), float(state["total"][0])
        self.optimizer.load_state(unprefixed("optimizer", state))
