"""Who works on which sample, when.

Letters: N training samples, B slots of the global batch, W workers, S = ⌈N/B⌉ steps of an epoch.

Three promises hold for every split:

1. The order of samples (which sample sits in which slot of which step) is a function of (seed, epoch, step,
   split) alone, never of W. One worker with `--batch-size B` trains on the batches that W workers train on.
2. An epoch of S steps uses every training sample exactly once. The last step may be smaller.
3. A worker owns a part of the training set, its shard, the same in all epochs; shards are disjoint and cover
   all.

*Stratified* splits (contiguous, strided, random) arrange the samples and cut them into B strata, one a slot.
Every epoch shuffles each stratum on its own, and step s takes the s-th sample of every stratum that still has
one (strata differ by at most one sample). A worker owns slots, hence strata, hence always the same samples,
and any two workers' parts of a full batch differ by at most one sample.

*Owner-based* splits (hash, dirichlet) say for each sample who owns it. Every epoch shuffles the whole
training set and cuts it into batches of B; a worker works on those that it owns: its part varies from step to
step, and may be empty.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.data.streams import GOLDEN, Orders, generator, mix, permutation
from mpidp.errors import UserError
from mpidp.options import NoOptions, option

# First word of a place (see data/streams.py): one stream a purpose. Epochs are far below these.
_ARRANGE, _PROPORTIONS, _CLASS = 2**62, 2**62 + 1, 2**62 + 2

MANY = 1 << 23
"""Samples: of more, the stratified splits hold no order in memory, but compute each place in it (`streams.Orders`)."""


class Split:
    """The samples of every step, and which worker has them.

    samples: N; batch_size: B, global; workers: W; seed: of the order; labels: class of each of the N samples,
    or None where there are none. Raises UserError where B < W, W > N or B > N.
    """

    Options: type = NoOptions
    by_class = False
    """Whether the classes of all samples are needed."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        workers: int,
        seed: int = 0,
        labels: np.ndarray | None = None,
        options: Any = None,
    ):
        if workers < 1:
            raise UserError(f"{workers} workers: at least 1 is needed")
        if workers > samples:
            raise UserError(
                f"{workers} workers are more than the {samples} training samples: start fewer ranks"
            )
        if batch_size < workers:
            raise UserError(
                f"--batch-size {batch_size} is less than the {workers} workers, which share it: "
                f"choose at least {workers}, or start fewer ranks"
            )
        if batch_size > samples:
            raise UserError(
                f"--batch-size {batch_size} is more than the {samples} training samples: choose at most {samples}"
            )
        self.samples, self.batch_size, self.workers, self.seed = samples, batch_size, workers, seed
        self.options = self.Options() if options is None else options
        self.steps_per_epoch = -(-samples // batch_size)

    def batch_count(self, epoch: int, step: int) -> int:
        """Number of samples that all workers together have in this step: B, or what is left in the last one."""
        self._check(step)
        return min(self.batch_size, self.samples - step * self.batch_size)

    def part(self, epoch: int, step: int, worker: int) -> tuple[np.ndarray, np.ndarray]:
        """(indices, slots) of this worker's samples in step 0 ≤ step < S: int64, slots ascending in [0, B)."""
        raise NotImplementedError

    def shard(self, worker: int) -> np.ndarray:
        """Indices of all the samples that this worker owns, ascending (int64)."""
        raise NotImplementedError

    def shard_sizes(self) -> np.ndarray:
        """Number of samples that each worker owns (int64, W)."""
        return np.array([len(self.shard(w)) for w in range(self.workers)], np.int64)

    def _check(self, step: int) -> None:
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch} steps")


class Stratified(Split):
    """Stratum j feeds slot j of every batch; slots belong to workers."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._orders: dict[int, tuple[int, np.ndarray, Any]] = {}  # w: (epoch, slots, S × slots or Orders)

    def slots(self, worker: int) -> np.ndarray:
        """The slots of this worker, ascending: [w·B//W, (w+1)·B//W)."""
        b, w = self.batch_size, self.workers
        return np.arange(worker * b // w, (worker + 1) * b // w)

    def sizes(self, slots: np.ndarray) -> np.ndarray:
        """How many samples feed each of these slots."""
        n, b = self.samples, self.batch_size
        return (slots + 1) * n // b - slots * n // b

    def elements(self, slots: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The sample number `at` of those that feed each slot, which are [j·N//B, (j+1)·N//B)."""
        return slots * self.samples // self.batch_size + at

    def stratum(self, slot: int) -> np.ndarray:
        """Indices of the samples that feed this slot."""
        return self.elements(np.int64(slot), np.arange(self.sizes(np.int64(slot))))

    def part(self, epoch: int, step: int, worker: int) -> tuple[np.ndarray, np.ndarray]:
        self._check(step)
        held = self._orders.get(worker)
        if held is None or held[0] != epoch:
            held = self._orders[worker] = (epoch, *self._shuffled(epoch, worker))
        slots = held[1]
        if isinstance(held[2], Orders):
            there = self.sizes(slots) > step
            return self.elements(slots, held[2].at(step))[there], slots[there]
        indices = held[2][step]
        there = indices >= 0
        return indices[there], slots[there]

    def _shuffled(self, epoch: int, worker: int) -> tuple[np.ndarray, Any]:
        slots = self.slots(worker)
        if self.samples > MANY:
            return slots, Orders(self.sizes(slots), self.steps_per_epoch, self.seed, epoch, slots)
        order = np.full((self.steps_per_epoch, len(slots)), -1, np.int64)
        for column, slot in enumerate(slots):
            stratum = self.stratum(int(slot))
            order[: len(stratum), column] = stratum[permutation(len(stratum), self.seed, epoch, int(slot))]
        return slots, order

    def shard(self, worker: int) -> np.ndarray:
        return np.sort(np.concatenate([self.stratum(int(j)) for j in self.slots(worker)]))

    def shard_sizes(self) -> np.ndarray:
        return np.array([self.sizes(self.slots(w)).sum() for w in range(self.workers)], np.int64)


class Contiguous(Stratified):
    """Worker w owns the w-th run of neighbouring samples (for text: a passage of its own)."""


class Strided(Stratified):
    """Worker w owns slots w, w+W, w+2W, …; stratum j is samples j, j+B, j+2B, …"""

    def slots(self, worker: int) -> np.ndarray:
        return np.arange(worker, self.batch_size, self.workers)

    def sizes(self, slots: np.ndarray) -> np.ndarray:
        return (self.samples - slots + self.batch_size - 1) // self.batch_size

    def elements(self, slots: np.ndarray, at: np.ndarray) -> np.ndarray:
        return slots + at * self.batch_size


class Random(Stratified):
    """Contiguous after one seeded permutation of the training set: shards are alike, whatever the data's order."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.samples > MANY:
            self._order = Orders(np.array([self.samples]), self.samples, self.seed, _ARRANGE)
        else:
            self._arranged = permutation(self.samples, self.seed, _ARRANGE)

    def elements(self, slots: np.ndarray, at: np.ndarray) -> np.ndarray:
        places = super().elements(slots, at)
        return self._order.at(places) if self.samples > MANY else self._arranged[places]


class OwnerBased(Split):
    """`owner[i]` is the worker of sample i."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        workers: int,
        seed: int = 0,
        labels: np.ndarray | None = None,
        options: Any = None,
    ):
        super().__init__(samples, batch_size, workers, seed, labels, options)
        self.owner = self.owners(labels)
        self._order: tuple[int, np.ndarray] | None = None  # (epoch, permutation)

    def owners(self, labels: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def part(self, epoch: int, step: int, worker: int) -> tuple[np.ndarray, np.ndarray]:
        self._check(step)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(self.samples, self.seed, epoch))
        batch = self._order[1][step * self.batch_size : (step + 1) * self.batch_size]
        slots = np.flatnonzero(self.owner[batch] == worker)
        return batch[slots], slots

    def shard(self, worker: int) -> np.ndarray:
        return np.flatnonzero(self.owner == worker)

    def shard_sizes(self) -> np.ndarray:
        return np.bincount(self.owner, minlength=self.workers).astype(np.int64)


class Hash(OwnerBased):
    """Owner of sample i: argmax_w h(i, w), h a 64-bit mix of the two numbers and of nothing else.

    A sample stays where it is when samples are added, and when workers are added it moves, if at all, to a
    new one: of N samples, about N·a/(W+a) move when a workers join W (rendezvous, or highest-random-weight,
    hashing: Thaler and Ravishankar 1998, doi:10.1109/90.663936). h: the finaliser of SplitMix64 (Steele, Lea
    and Flood 2014, doi:10.1145/2660193.2660195). Shards are of size N/W only on average.
    """

    def owners(self, labels: np.ndarray | None) -> np.ndarray:
        ids = mix(np.arange(self.samples, dtype=np.uint64))
        owner = np.zeros(self.samples, np.int32)
        best = mix(ids)
        for worker in range(1, self.workers):
            weight = mix(ids + np.uint64(worker * GOLDEN % 2**64))
            better = weight > best
            best[better] = weight[better]
            owner[better] = worker
        return owner


class Dirichlet(OwnerBased):
    """Shards with different mixtures of classes, for experiments: the smaller alpha, the more one-sided.

    For each class c, proportions p_c ~ Dir(alpha · 1_W), and the samples of c, in a seeded order, are cut
    into W pieces of sizes p_c · N_c (Yurochkin et al. 2019, arXiv:1905.12022; the influence of alpha: Hsu, Qi
    and Brown 2019, arXiv:1909.06335). alpha → ∞: every shard has the mixture of the whole; alpha → 0: each
    class lies with one worker. Raises UserError where samples have no classes.
    """

    by_class = True

    @dataclass
    class Options:
        alpha: float = option(
            0.5, "concentration of the class proportions; smaller is more one-sided", above=0.0, maximum=1e6
        )

    def owners(self, labels: np.ndarray | None) -> np.ndarray:
        if labels is None:
            fitting = ", ".join(name for name in SPLITS if name != "dirichlet")
            raise UserError(
                f"--split dirichlet needs samples with classes, which this data has not: choose {fitting}"
            )
        if len(labels) != self.samples:
            raise ValueError(f"{len(labels)} labels of {self.samples} samples")
        alpha = np.full(self.workers, self.options.alpha)
        owner = np.empty(self.samples, np.int32)
        for c in np.unique(labels):
            members = np.flatnonzero(labels == c)
            members = members[permutation(len(members), self.seed, _CLASS, int(c))]
            proportions = generator(self.seed, _PROPORTIONS, int(c)).dirichlet(alpha)
            cuts = np.rint(np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
            owner[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
        return owner


SPLITS: dict[str, type[Split]] = {
    "contiguous": Contiguous,
    "strided": Strided,
    "random": Random,
    "hash": Hash,
    "dirichlet": Dirichlet,
}
