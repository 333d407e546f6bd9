"""Every rank owns a part of the parameters and of the optimizer's state: the model split, ZeRO's first two stages."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.collectives import COLLECTIVES, Collective
from mpidp.compression import PLAIN
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.owners import LANES, Pages, ToOwners
from mpidp.strategies.state import bounds, prefixed
from mpidp.takeover import Owned, Same

BUCKET_MIB = 2.0  # a huge page
STRAIGHT = COLLECTIVES["pairwise"]  # from every rank to every other


@dataclass
class ShardedOptions:
    stage: int = option(
        1,
        "of ZeRO: 1 splits the optimizer's state over the ranks, 2 the gradients as well",
        minimum=1,
        maximum=2,
    )
    bucket_mib: float | None = option(
        None, f"MiB of the gradient that --stage 2 sends at a time (default: {BUCKET_MIB:g})", above=0
    )

    def __post_init__(self):
        if self.stage == 1 and self.bucket_mib is not None:
            raise UserError(
                f"--bucket-mib {self.bucket_mib:g} is used by --stage 2: --stage 1 sums all at once, after backward"
            )


def bucket_length(dtype: Any, options: ShardedOptions) -> int:
    """Elements of what --stage 2 sends at a time."""
    return math.ceil((options.bucket_mib or BUCKET_MIB) * 2**20 / np.dtype(dtype).itemsize)


class Sharded(Strategy):
    """Rank r sums, steps and hands out part r of P.

        g[part r] ← Σ_ranks g[part r]                      reduce-scatter
        x[part r] ← optimizer(x[part r], g[part r])        on rank r alone, with state for this part alone
        x ← all parts                                      all-gather; in shared memory there is but one x

    `--stage 2` keeps of the gradients too just what a rank owns: while backward computes, each bucket goes to its owner
    as soon as it is complete, and its memory back to the system (`owners.py`). That takes messages of its own, whatever
    the ranks share; the sums have the bits of `server`, and the parameters go from every rank to every other.
    Clipping needs ‖g‖ of the whole vector: the ranks exchange their parts' squared norms.
    Consistency: that of all-reduce. Cost a step: by ring 2 (P - 1) messages and 2 n (P - 1) / P bytes a rank, as an
    all-reduce; by `shared` none; stage 2: as many bytes, P - 1 messages and one for each bucket of others' parts;
    with clipping also P - 1 messages of 8 bytes. Optimizer work and state: 1 / P.
    Source: Rajbhandari et al. 2019, "ZeRO", arXiv 1910.02054 (stages 1 and 2).
    """

    Options = ShardedOptions
    scatters = True
    depends_on_ranks = (
        "cuts the vector into as many parts as there are ranks, and adds up what each finds in its own"
    )
    encodes = "chunks"
    cases = ({}, {"stage": 2})

    def __init__(self, setup: Setup, options: ShardedOptions):
        super().__init__(setup, options)
        n, size = setup.size, self.comm.size
        self.sum: ToOwners | None = None
        if options.stage == 1:
            self.route = setup.collective
            self.make_sum()
        else:
            self.route, self.pages = STRAIGHT, Pages(setup.xp, n, setup.dtype)
            length = bucket_length(setup.dtype, options)
            parts = [self.route.part(n, size, rank) for rank in range(size)]
            self.sum = ToOwners(self.comm, self.pages, parts, length)
        self.part = self.route.part(n, size, self.comm.rank)
        self.optimizer = setup.optimizer(self.part.start, self.part.stop, setup.xp.empty(0, setup.dtype))

    @classmethod
    def by_route(cls, options: ShardedOptions) -> bool:
        return options.stage == 1

    @classmethod
    def check(cls, options: ShardedOptions, run: Any) -> None:
        if options.stage == 1:
            return
        if run.collective is not None:
            raise UserError(
                f"--collective {run.collective}: --stage 2 sends each gradient to its owner, and parameters to all, by "
                "messages of its own, also between ranks that share memory: leave it out, or choose --stage 1"
            )
        if run.compress != PLAIN:
            raise UserError(
                f"--compress {run.compress}: --stage 2 sends gradients as they are: choose --stage 1, or leave it out"
            )
        if run.micro_batch is not None:
            raise UserError(
                f"--micro-batch {run.micro_batch} adds up whole gradients, which --stage 2 is there not to keep: "
                "choose --stage 1, or a smaller --batch-size"
            )

    @classmethod
    def optimizer_share(cls, rank: int, ranks: int, options: ShardedOptions) -> float:
        return 1 / ranks

    @classmethod
    def gradient_share(cls, ranks: int, options: ShardedOptions) -> float:
        return 1 / ranks if options.stage == 2 else 1.0

    @classmethod
    def route_memory(
        cls, route: Collective | None, n: int, dtype: Any, ranks: int, options: ShardedOptions
    ) -> int:
        if options.stage == 1:
            return super().route_memory(route, n, dtype, ranks, options)
        return min(2 * LANES * bucket_length(dtype, options), 2 * n)

    def allocate(self):
        n, dtype = self.setup.size, np.dtype(self.setup.dtype)
        self.params = self.route.allocate_common(self.comm, n, dtype)
        self.grads = self.pages.vector if self.sum else self.route.allocate(self.comm, n, dtype)
        return self.params, self.grads

    def ready(self, lo: int, hi: int) -> None:
        if self.sum:
            with self.communicating():
                self.sum.ready(self.grads, lo)

    def advance(self) -> None:
        if self.sum:
            with self.communicating():
                self.sum.advance(self.grads)

    def step(self, step: Step) -> None:
        mine, grads = self.params[self.part], self.grads[self.part]
        with self.communicating():
            if self.sum:
                self.sum.finish(self.grads)
            else:
                self.summing.reduce_scatter(self.grads)
            squared = self.add_over(range(self.comm.size), self.squared_norm(grads))
        self.optimizer.step(mine, grads, self.part.start, step.lr, step.t, self.clip_factor(squared))
        with self.communicating():
            self.route.all_gather(self.comm, self.params)

    def cost(self, t: int) -> tuple[int, int]:
        scatter = self.sum.cost() if self.sum else self.summing.scatter_cost(t)
        halves = scatter, self.route_cost(self.route.gather_cost)
        messages, sent = map(sum, zip(*halves, strict=True))
        norms = self.comm.size - 1 if self.setup.clip is not None else 0
        return messages + norms, sent + 8 * norms

    def saved(self, whole=False):
        params = {"params": self.params} if self.comm.rank == 0 or whole else {}
        return params | bounds(self.part) | prefixed("state", self.state())

    @classmethod
    def owners(cls, ranks, options):
        return range(ranks)

    def rules(self):
        return {"": Same, "state": lambda: Owned(self.part)}

    def state(self):
        return self.optimizer.state() | self.sum_state()

    def load_state(self, state):
        self.optimizer.load_state(self.load_sum_state(state))
