"""Asynchronous strategies with the chance taken out: their workers make steps one after the other, as a list says."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mpidp.comm import run_ranks
from tests.runs import Run, make_model

ORDER = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], 8)).tolist()


def in_turns(
    ranks: int, name: str, options: dict, order: Sequence[int], **settings
) -> tuple[np.ndarray, dict]:
    """(merged model, summary) when the workers in `order` have made a step each."""
    at, moved = [0], threading.Condition()

    def body(comm):
        run = Run(comm, name, options, **settings)
        if run.strategy.worker is None:
            run.steps(len(order) // run.strategy.workers)
        for i in [i for i, worker in enumerate(order) if worker == run.strategy.worker]:
            with moved:
                assert moved.wait_for(lambda i=i: at[0] == i, 5)
            run.steps(1)
            with moved:
                at[0] += 1
                moved.notify_all()
        return run.merged(), run.strategy.summary()

    return run_ranks(ranks, body)[0]


class WrittenOut:
    """The same in one process, as the papers have it: x, and every worker's copy of it, with its staleness."""

    def __init__(self, workers: int):
        self.workers = workers
        self.run = run_ranks(workers, lambda comm: Run(comm, "none", 0))[0]  # for its data and its split
        self.model = make_model(np.float64)
        self.params, self.grads = np.zeros(self.model.size), np.zeros(self.model.size)
        self.model.bind(self.params, self.grads)
        self.model.initialise(0)
        self.x = self.params.copy()
        self.histogram: Counter[str] = Counter()

    def gradients(self, order: Sequence[int]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, int]]:
        """(worker, its step, gradient, the copy that it is of, its staleness) in turn; whoever asks steps `self.x`."""
        copies, seen, steps = [self.x] * self.workers, [0] * self.workers, [0] * self.workers
        for version, worker in enumerate(order):
            steps[worker] += 1
            staleness = version - seen[worker]
            self.histogram[str(staleness)] += 1
            gradient = self.gradient(worker, steps[worker], copies[worker])
            yield worker, steps[worker], gradient, copies[worker], staleness
            copies[worker], seen[worker] = self.x, version + 1

    def gradient(self, worker: int, t: int, at: np.ndarray) -> np.ndarray:
        """Σ over the worker's samples of step t, times workers / (samples of all)."""
        split = self.run.split
        epoch, turn = divmod(t - 1, split.steps_per_epoch)
        indices, slots = split.part(epoch, turn, worker)
        self.params[...] = at
        scale = self.workers / split.batch_count(epoch, turn)
        self.model.gradients(self.run.x[indices], self.run.y[indices], scale, slots=slots)
        return self.grads.copy()
