"""Synchronous data parallelism: every rank sums the gradient, every rank takes the same step."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.options import option
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.buckets import Buckets

BUCKET_MIB = 1.0


@dataclass
class AllReduceOptions:
    bucket_mib: float | None = option(
        None,
        "MiB of the gradient that are summed at a time, while backward computes the rest, on routes that send "
        f"messages (default: {BUCKET_MIB:g}; 0: all at once, after it)",
        minimum=0,
    )


def bucket_length(dtype: Any, options: AllReduceOptions) -> int:
    """Elements of a bucket; 0: there are none."""
    mib = BUCKET_MIB if options.bucket_mib is None else options.bucket_mib
    return math.ceil(mib * 2**20 / np.dtype(dtype).itemsize)


class AllReduce(Strategy):
    """g ← Σ_ranks g_r (each already scaled by 1 / global batch); x ← optimizer(x, g), on every rank.

    The sum is made in buckets, the tail of the vector first, each as soon as backward has completed it.
    Consistency: the ranks compute what one rank would on the whole batch; replicas hold the same bits always.
    Cost a step: that of the route for every bucket, by ring 2 (P - 1) messages for each of them and 2 n (P - 1) / P
    bytes a rank in all.
    Source: Goyal et al. 2017, arXiv 1706.02677 (for the practice); the ring: Patarasuk & Yuan 2009.
    """

    Options = AllReduceOptions
    leaves_mean_gradient = True
    depends_on_ranks = None
    encodes = "gradients"
    cases = ({}, {"bucket_mib": 0.01})

    def __init__(self, setup: Setup, options: AllReduceOptions):
        super().__init__(setup, options)
        summing = self.make_sum()
        self.sum = Buckets(self.comm, summing, setup.size, bucket_length(setup.dtype, options))
        self.optimizer = setup.optimizer(0, setup.size, setup.xp.empty(0, setup.dtype))
        summing.accompany(self.optimizer)

    @classmethod
    def summed_at_once(cls, n: int, dtype: Any, options: AllReduceOptions) -> int:
        return min(n, bucket_length(dtype, options) or n)

    def ready(self, lo: int, hi: int) -> None:
        if self.sum.early:
            with self.communicating():
                self.sum.ready(self.grads, lo)

    def advance(self) -> None:
        if self.sum.under_way:
            with self.communicating():
                self.sum.advance(self.grads)

    def step(self, step: Step) -> None:
        if self.setup.clip is None:
            return self.step_by_buckets(step)
        with self.communicating():
            self.sum.finish(self.grads)
        scale = self.clipping(self.grads)
        self.optimizer.step(self.params, self.grads, 0, step.lr, step.t, scale)

    def step_by_buckets(self, step: Step) -> None:
        """Step what is summed while the rest is under way: the last sums have no backward left to hide behind."""
        summed = self.sum.summed(self.grads)
        while True:
            with self.communicating():
                part = next(summed, None)
            if part is None:
                return
            self.optimizer.step(self.params[part], self.grads[part], part.start, step.lr, step.t)

    def cost(self, t: int) -> tuple[int, int]:
        costs = [self.summing.cost(t, part.stop - part.start, part.start) for part in self.sum.slices]
        return sum(messages for messages, _ in costs), sum(sent for _, sent in costs)

    def state(self):
        return self.optimizer.state() | self.sum_state()

    def load_state(self, state):
        self.optimizer.load_state(self.load_sum_state(state))
