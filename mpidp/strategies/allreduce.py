"""Synchronous data parallelism: every rank sums the gradient, every rank takes the same step."""

from mpidp.strategies.base import Setup, Step, Strategy


class AllReduce(Strategy):
    """g ← Σ_ranks g_r (each already scaled by 1 / global batch); x ← optimizer(x, g), on every rank.

    Consistency: the ranks compute what one rank would on the whole batch; replicas hold the same bits always.
    Cost a step: that of the route, by ring 2 (P - 1) messages and 2 n (P - 1) / P bytes a rank.
    Source: Goyal et al. 2017, arXiv 1706.02677 (for the practice); the ring: Patarasuk & Yuan 2009.
    """

    def __init__(self, setup: Setup, options):
        super().__init__(setup, options)
        self.scratch = setup.xp.empty(-(-setup.size // self.comm.size), setup.dtype)
        self.optimizer = setup.optimizer(0, setup.size, self.scratch)

    def step(self, step: Step) -> None:
        with self.communicating():
            self.setup.collective.allreduce(self.comm, self.grads, self.scratch)
        scale = self.clip_factor(self.squared_norm(self.grads))
        self.optimizer.step(self.params, self.grads, 0, step.lr, step.t, scale)

    def cost(self, t: int) -> tuple[int, int]:
        return self.allreduce_cost()

    def state(self):
        return self.optimizer.state()

    def load_state(self, state):
        self.optimizer.load_state(state)
