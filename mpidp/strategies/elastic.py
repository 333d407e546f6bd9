"""Elastic averaging SGD: replicas on springs around a common centre."""

from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step
from mpidp.strategies.local import LocalSteps
from mpidp.strategies.state import prefixed, unprefixed

MOVING_RATE = 0.9  # β of the paper's experiments


@dataclass
class ElasticOptions:
    period: int = option(8, "steps that a rank takes alone between two exchanges", minimum=1)
    elasticity: float | None = option(
        None,
        f"share a of its distance that a replica goes towards the centre (default: {MOVING_RATE:g} / ranks)",
        above=0,
        maximum=1,
    )


class ElasticAveraging(LocalSteps):
    """Each rank steps alone; every τ = `period` steps the replicas and their centre c go towards each other.

        every step:      x_r ← optimizer(x_r, g_r)        g_r: mean over the rank's own samples
        every τ steps:   d_r ← a (x_r - c)
                         x_r ← x_r - d_r;  c ← c + Σ_r d_r

    The synchronous form, by one all-reduce; a = `elasticity`, and β = P a is the centre's moving rate. Σ_r x_r + c does
    not change in an exchange; the distance of the replicas' mean from c shrinks by the factor 1 - (P + 1) a,
    hence a < 2 / (P + 1), and those between replicas by 1 - a. Ranks count alike, however many samples they have.
    The model is c, the same bits on every rank. Momentum inside (`--optimizer sgd --momentum`) makes this EAMSGD; the
    inner optimizer's state stays local. Clipping looks at the norm of the rank's own gradient.
    Consistency: the replicas stay apart always. Cost: one all-reduce of n elements every τ steps.
    Source: Zhang, Choromanska & LeCun 2014, "Deep learning with elastic averaging SGD", arXiv 1412.6651.
    """

    Options = ElasticOptions
    encodes = "changes"
    cases = ({"period": 3},)

    def __init__(self, setup: Setup, options: ElasticOptions):
        super().__init__(setup, options)
        ranks = self.comm.size
        self.elasticity = MOVING_RATE / ranks if options.elasticity is None else options.elasticity
        if self.elasticity >= 2 / (ranks + 1):
            raise UserError(
                f"--elasticity {self.elasticity:g} with {ranks} rank(s): the centre would overshoot the replicas "
                f"ever farther; it must be less than 2 / (ranks + 1) = {2 / (ranks + 1):.4g}"
            )
        self.make_sum()
        self.centre = setup.xp.empty(setup.size, setup.dtype)
        self.optimizer = setup.optimizer(0, setup.size, self.centre)

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: ElasticOptions) -> float:
        return 2

    def start(self) -> None:
        super().start()
        self.centre[...] = self.params

    def exchanges(self, t: int) -> bool:
        return t % self.options.period == 0

    def step(self, step: Step) -> None:
        self.step_alone(step)
        if self.exchanges(step.t):
            self.exchange()

    def exchange(self) -> None:
        pull = self.grads  # its gradient is used up
        self.setup.xp.subtract(self.params, self.centre, out=pull)
        pull *= self.elasticity
        self.params -= pull
        with self.communicating():
            self.summing.allreduce(pull)
        self.centre += pull

    def merge(self, out) -> None:
        """out ← the centre."""
        out[...] = self.centre

    def exact(self) -> bool:
        return False

    def cost(self, t: int) -> tuple[int, int]:
        return self.summing.cost() if self.exchanges(t) else (0, 0)

    def state(self):
        return {"centre": self.centre} | prefixed("optimizer", self.optimizer.state()) | self.sum_state()

    def load_state(self, state):
        self.centre[...] = state["centre"]
        self.load_sum_state(state)
        self.optimizer.load_state(unprefixed("optimizer", state))
