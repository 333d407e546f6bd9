"""A strategy at work on quadratics, one a rank, whose gradients are known in closed form: quick, and no model needed.

Rank r descends f_r(x) = Σ_i k_i (x_i - b_r,i)² / 2 and has `samples(r, t)` samples in step t, none now and then.
"""

from collections.abc import Sequence

import numpy as np

from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator, run_ranks
from mpidp.nn.layer import Parameter, constant
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import STRATEGIES, Setup, Step, Strategy

LENGTHS = (5, 1, 7, 2, 4, 3)  # of the tensors
N = sum(LENGTHS)
SAMPLES = ((3, 1, 2), (1, 2, 0, 4), (2,), (0, 5), (1, 1, 3))
LR = 0.05


def parameters(lengths: Sequence[int] = LENGTHS) -> list[Parameter]:
    tensors, lo = [], 0
    for i, length in enumerate(lengths):
        tensor = Parameter(f"tensor{i}", (length,), constant(0.0))
        tensor.lo, tensor.hi = lo, lo + length
        lo += length
        tensors.append(tensor)
    return tensors


def curvature() -> np.ndarray:
    return np.random.default_rng(1).uniform(0.5, 3.0, N)


def target(rank: int) -> np.ndarray:
    """b_r."""
    return np.random.default_rng([2, rank]).normal(size=N)


def origin() -> np.ndarray:
    """Where all start."""
    return np.random.default_rng(3).normal(size=N)


def samples(rank: int, t: int) -> int:
    return SAMPLES[rank][t % len(SAMPLES[rank])]


def gradient(rank: int, x: np.ndarray) -> np.ndarray:
    return curvature() * (x - target(rank))


class Descent:
    """One rank's part. lr: a number, or a function of t. rank, ranks: whose quadratics these are (default: ours)."""

    def __init__(self, comm: Communicator, sync: str, lr=LR, optimizer=("sgd", {}), collective="ring",
                 rank: int | None = None, ranks: Sequence[int] | None = None, **options):  # fmt: skip
        self.rank = comm.rank if rank is None else rank
        self.ranks = range(comm.size) if ranks is None else ranks
        self.lr = lr if callable(lr) else lambda t: lr
        kind, settings = OPTIMIZERS[optimizer[0]], optimizer[1]
        tensors = parameters()
        strategy = STRATEGIES[sync]
        setup = Setup(
            comm=comm.Dup(),
            size=N,
            dtype=np.dtype(np.float64),
            xp=np,
            optimizer=lambda lo, hi, like: kind(kind.Options(**settings), tensors, lo, hi, like),
            collective=COLLECTIVES[collective],
            clip=None,
            parameters=tensors,
        )
        self.strategy: Strategy = strategy(setup, strategy.Options(**options))
        self.params, self.grads = self.strategy.allocate()
        if comm.rank == 0:
            self.params[...] = origin()
        self.strategy.start()
        self.t = 0

    def backward(self, step: Step) -> None:
        """As a model does it: the gradient from its tail to its head, with the strategy called in between."""
        self.grads[...] = self.strategy.scale(step) * step.samples * gradient(self.rank, self.params)
        for lo in range(N - 8, -8, -8):
            self.strategy.ready(max(lo, 0), lo + 8)
            self.strategy.advance()

    def steps(self, count: int) -> "Descent":
        for _ in range(count):
            self.t += 1
            total = sum(samples(rank, self.t) for rank in self.ranks)
            step = Step(self.t, samples(self.rank, self.t), total, self.lr(self.t))
            self.backward(step)
            self.strategy.step(step)
        return self

    def merged(self) -> np.ndarray:
        out = np.full(N, np.nan)
        self.strategy.merge(out)
        return out

    def saved(self) -> dict[str, np.ndarray]:
        return {name: array.copy() for name, array in self.strategy.saved().items()}

    def resume(self, t: int, saved: dict[str, np.ndarray]) -> "Descent":
        self.params[...] = saved["params"]
        self.strategy.load_state(
            {name.removeprefix("state."): array for name, array in saved.items() if name.startswith("state.")}
        )
        self.t = t
        return self


def trained(ranks: int, sync: str, steps: int, hosts: Sequence[int] | None = None, **settings) -> np.ndarray:
    """The merged model, which all ranks have with the same bits."""
    merged = run_ranks(ranks, lambda comm: Descent(comm, sync, **settings).steps(steps).merged(), hosts=hosts)
    assert len({vector.tobytes() for vector in merged}) == 1
    return merged[0]


def mean_of(replicas: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Σ w_i x_i / Σ w_i"""
    weights = np.asarray(weights, float)
    return sum(w / weights.sum() * x for w, x in zip(weights, replicas, strict=True))
