"""Adasum: gradients that agree are averaged, gradients that have nothing to do with each other are added."""

from collections.abc import Iterator

import numpy as np

from mpidp.arrays import Array, number
from mpidp.strategies.base import Setup, Step, Strategy

GRADIENT, DOTS = 0, 1  # message tags
BLOCK = 1 << 16
"""Elements that are taken to float64 at a time: both operands stay in a core's second-level cache."""


class Adasum(Strategy):
    """g ← Adasum of all ranks' g_r, each the mean over the rank's own samples; x ← optimizer(x, g), on every rank.

        a ⊕ b = (1 - a·b / 2|a|²) a + (1 - a·b / 2|b|²) b        for each tensor of the model by itself
        g = ((g_0 ⊕ g_1) ⊕ (g_2 ⊕ g_3)) ⊕ ...                    a binary tree over the 2^k ≤ P first ranks

    Orthogonal gradients are added, parallel ones averaged, and a rank without samples (g_r = 0) changes nothing. With
    P no power of two, rank 2^k + i is first taken up by rank i. By vector halving and distance doubling, as in the
    paper: in round j = 1 .. k ranks at distance 2^(j-1) exchange halves of what they hold, the 2^j ranks that hold two
    gradients between them add up their dot products, and each combines its part; k rounds back hand out the parts.
    (Whole vectors would take half the messages, but n k bytes, and all the arithmetic on every rank.)
    Consistency: replicas hold the same bits always, but it is not what one rank computes on the whole batch, whose
    mean it leaves behind the better the less gradients agree. Cost a step with P = 2^k, T tensors and n bytes:
    2 k + k (k + 1) / 2 messages, 2 n (P - 1) / P + 12 T k (k + 1) bytes a rank.
    Source: Maleki et al. 2020, "Scaling Distributed Training with Adaptive Summation", arXiv 2006.02924.
    """

    uses_collective = False
    why_plain = "weighs gradients by their dot products, of which an encoding would make others"
    depends_on_ranks = (
        "weighs the ranks' gradients against each other, so that their number is part of what it computes"
    )

    def __init__(self, setup: Setup, options):
        super().__init__(setup, options)
        xp, n, rank, size = setup.xp, setup.size, self.comm.rank, self.comm.size
        self.rounds = size.bit_length() - 1
        self.tree = 1 << self.rounds
        self.halves = list(halves(n, rank, self.rounds)) if rank < self.tree else []
        self.takes_up = rank + self.tree < size
        longest = n if self.takes_up else -(-n // 2)
        self.incoming = xp.empty(longest, setup.dtype)
        self.doubles = xp.empty((2, min(BLOCK, longest)), np.float64)
        self.optimizer = setup.optimizer(0, n, self.incoming)

    @classmethod
    def extra_vectors(cls, rank, ranks, options) -> float:
        return 1

    def scale(self, step: Step) -> float:
        return 1.0 / max(step.samples, 1)

    def step(self, step: Step) -> None:
        with self.communicating():
            self.sum(self.grads)
        scale = self.clipping(self.grads)
        self.optimizer.step(self.params, self.grads, 0, step.lr, step.t, scale)

    def sum(self, g: Array) -> None:
        """g ← Adasum over all ranks, the same bits on each."""
        comm, rank, tree = self.comm, self.comm.rank, self.tree
        if rank >= tree:
            comm.Send(g, rank - tree)
            comm.Recv(g, rank - tree)
            return
        if self.takes_up:
            comm.Recv(self.incoming, rank + tree)
            self.combine(g, self.incoming, slice(0, len(g)), 0)
        for j, (kept, given) in enumerate(self.halves):
            theirs = self.incoming[: kept.stop - kept.start]
            self.exchange(g[given], theirs, rank ^ 1 << j)
            self.combine(g[kept], theirs, kept, j + 1)
        for j, (kept, given) in reversed(list(enumerate(self.halves))):
            self.exchange(g[kept], g[given], rank ^ 1 << j)
        if self.takes_up:
            comm.Send(g, rank + tree)

    def exchange(self, ours: Array, theirs: Array, partner: int, tag: int = GRADIENT) -> None:
        self.comm.Wait(self.comm.Irecv(theirs, partner, tag), self.comm.Isend(ours, partner, tag))

    def combine(self, ours: Array, theirs: Array, part: slice, rounds: int) -> None:
        """ours ← ours ⊕ theirs, the part of two gradients of which 2^rounds ranks hold one each."""
        pieces = [
            (i, slice(max(p.lo - part.start, 0), min(p.hi, part.stop) - part.start))
            for i, p in enumerate(self.setup.parameters)
            if p.lo < part.stop and part.start < p.hi
        ]
        dots = np.zeros((3, len(self.setup.parameters)))  # ours · theirs, |ours|², |theirs|² of each tensor
        for i, piece in pieces:
            dots[:, i] = self.dots(ours[piece], theirs[piece])
        upper = rounds and self.comm.rank >> rounds - 1 & 1  # of the two that combine
        order = [0, 2, 1] if upper else [0, 1, 2]  # the lower one's square stands before the upper one's
        dots, others = dots[order], np.empty_like(dots)
        for j in range(rounds):
            self.exchange(dots, others, self.comm.rank ^ 1 << j, DOTS)
            dots = dots + others
        products, *squares = dots[order]
        for i, piece in pieces:
            keep, add = (1 - products[i] / (2 * square[i]) if square[i] else 1.0 for square in squares)
            ours[piece] *= keep
            theirs[piece] *= add
        ours += theirs

    def dots(self, a: Array, b: Array) -> tuple[float, float, float]:
        """(a·b, |a|², |b|²) in float64, as the paper has it: squares of small float32 would vanish."""
        ab = aa = bb = 0.0
        for lo in range(0, len(a), BLOCK):
            x, y = (d[: min(BLOCK, len(a) - lo)] for d in self.doubles)
            x[...], y[...] = a[lo : lo + BLOCK], b[lo : lo + BLOCK]
            ab, aa, bb = ab + number(x @ y), aa + number(x @ x), bb + number(y @ y)
        return ab, aa, bb

    def exact(self) -> bool:
        return self.comm.size == 1

    def cost(self, t: int) -> tuple[int, int]:
        itemsize, whole = np.dtype(self.setup.dtype).itemsize, self.setup.size
        if self.comm.rank >= self.tree:
            return 1, whole * itemsize
        k = self.rounds
        sums = k * (k + 1) // 2
        elements = (
            sum(part.stop - part.start for both in self.halves for part in both) + self.takes_up * whole
        )
        tensors = len(self.setup.parameters)
        return 2 * k + sums + self.takes_up, elements * itemsize + 24 * tensors * sums

    def state(self):
        return self.optimizer.state()

    def load_state(self, state):
        self.optimizer.load_state(state)


def halves(n: int, rank: int, rounds: int) -> Iterator[tuple[slice, slice]]:
    """Of each round: what `rank` keeps of what it held, and what it gives to the rank at distance 2^round."""
    lo, hi = 0, n
    for j in range(rounds):
        low, high = slice(lo, (lo + hi) // 2), slice((lo + hi) // 2, hi)
        kept, given = (high, low) if rank >> j & 1 else (low, high)
        yield kept, given
        lo, hi = kept.start, kept.stop
