"""Every rank owns a part of the parameters and of the optimizer's state: the model split, ZeRO's first two stages."""

import numpy as np

from mpidp.strategies.base import Setup, Step, Strategy, prefixed


class Sharded(Strategy):
    """Rank r sums, steps and hands out chunk r of P.

        g[chunk r] ← Σ_ranks g[chunk r]                    reduce-scatter
        x[chunk r] ← optimizer(x[chunk r], g[chunk r])     on rank r alone, with state for this chunk alone
        x ← all chunks                                     all-gather; in shared memory there is but one x

    Clipping needs ‖g‖ of the whole vector: the ranks exchange their chunks' squared norms.
    Consistency: that of all-reduce. Cost a step: by ring 2 (P - 1) messages and 2 n (P - 1) / P bytes a rank, as an
    all-reduce; by `shared` none; with clipping also P - 1 messages of 8 bytes. Optimizer work and state: 1 / P.
    Source: Rajbhandari et al. 2019, "ZeRO", arXiv 1910.02054 (stages 1 and 2).
    """

    scatters = True

    def __init__(self, setup: Setup, options):
        super().__init__(setup, options)
        self.route = setup.collective
        self.part = self.route.part(setup.size, self.comm.size, self.comm.rank)
        self.scratch = setup.scratch(setup.size)
        self.optimizer = setup.optimizer(self.part.start, self.part.stop, self.scratch)

    @classmethod
    def optimizer_share(cls, ranks: int) -> float:
        return 1 / ranks

    def allocate(self):
        self.params = self.route.allocate_common(self.comm, self.setup.size, np.dtype(self.setup.dtype))
        self.grads = self.route.allocate(self.comm, self.setup.size, np.dtype(self.setup.dtype))
        return self.params, self.grads

    def step(self, step: Step) -> None:
        mine, grads = self.params[self.part], self.grads[self.part]
        with self.communicating():
            self.route.reduce_scatter(self.comm, self.grads, self.scratch)
            squared = self.add_over(range(self.comm.size), self.squared_norm(grads))
        self.optimizer.step(mine, grads, self.part.start, step.lr, step.t, self.clip_factor(squared))
        with self.communicating():
            self.route.all_gather(self.comm, self.params)

    def cost(self, t: int) -> tuple[int, int]:
        halves = self.route_cost(self.route.scatter_cost), self.route_cost(self.route.gather_cost)
        messages, sent = map(sum, zip(*halves, strict=True))
        norms = self.comm.size - 1 if self.setup.clip is not None else 0
        return messages + norms, sent + 8 * norms

    def saved(self):
        params = {"params": self.params} if self.comm.rank == 0 else {}
        return params | prefixed("state", self.state())

    def state(self):
        return self.optimizer.state()

    def load_state(self, state):
        self.optimizer.load_state(state)
