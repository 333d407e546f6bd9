"""Small runs of any strategy on any communicator, and what tests ask of them: for the contracts, and for others.

Nothing here names a strategy but the one process that others are compared with.
"""

import functools
import hashlib
import threading
from typing import Any

import numpy as np

from mpidp.arrays import to_host
from mpidp.collectives import COLLECTIVES, broadcast
from mpidp.comm import Communicator, run_ranks
from mpidp.compression import COMPRESSORS, PLAIN
from mpidp.data import Schema
from mpidp.data.split import SPLITS, Split
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.nn import Model
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import STRATEGIES, Setup, Step, Strategy

SAMPLES, FEATURES, CLASSES = 61, 5, 3  # 61 is prime: no number of ranks divides it
BATCH = 17  # neither it
SHORT, LONG = "64,40", "160,110"
"""Hidden layers of the model: 3107 and 19003 elements, which no number of ranks from 2 to 8 divides. Quick, and long
enough that a seventh of it is more than MPI buffers: MPICH was seen to buffer 8 kB, and to make 16 kB wait."""
CASES = [(name, i) for name, strategy in STRATEGIES.items() for i in range(len(strategy.cases))]
SGD = ("sgd", {})


def rank_counts(name: str, case: int) -> list[int]:
    """The numbers of ranks on which a strategy is run: its first case on more of them than the others.

    Eight for what a count of three is refused to: a graph that is made for powers of two.
    """
    counts = [
        ranks for ranks in ((1, 2, 3, 4, 5, 7) if case == 0 else (1, 2, 3, 4)) if possible(name, case, ranks)
    ]
    return counts + [8] * (4 in counts and 3 not in counts)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(SAMPLES, FEATURES)), rng.integers(0, CLASSES, SAMPLES).astype(np.int32)


@functools.cache
def split_of(name: str, workers: int) -> Split:
    return SPLITS[name](SAMPLES, BATCH, workers, 3, data()[1], SPLITS[name].Options())


@functools.cache
def batch(split: Split, worker: int | None, t: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(indices, slots) of this worker's samples in step t, none where it is no worker; the samples of all workers.

    Kept, since drawing them takes as long as all that the model computes.
    """
    epoch, turn = divmod(t - 1, split.steps_per_epoch)
    nothing = np.empty(0, int), np.empty(0, int)
    return *(nothing if worker is None else split.part(epoch, turn, worker)), split.batch_count(epoch, turn)


def make_model(dtype, hidden: str = SHORT) -> Model:
    mlp = MODELS["mlp"]
    return mlp.build(mlp.Options(hidden=hidden), Schema("classes", (FEATURES,), CLASSES), dtype)


class Run:
    """A strategy at work on this rank, on a small classifier with uneven shards."""

    def __init__(self, comm: Communicator, name: str, case: int | dict, dtype=np.float64, optimizer=SGD, clip=None,
                 split="contiguous", collective="ring", lr=0.2, hidden=SHORT, compress=(PLAIN, {})):  # fmt: skip
        self.comm, self.lr = comm, lr
        self.model = make_model(dtype, hidden)
        kind, chosen = OPTIMIZERS[optimizer[0]], optimizer[1]
        strategy, encoding = STRATEGIES[name], COMPRESSORS[compress[0]]
        setup = Setup(
            comm=comm.Dup(),
            size=self.model.size,
            dtype=np.dtype(dtype),
            xp=comm.xp,
            optimizer=lambda lo, hi, like: kind(kind.Options(**chosen), self.model.parameters, lo, hi, like),
            collective=COLLECTIVES[collective],
            clip=clip,
            parameters=self.model.parameters,
            compress=lambda place: encoding.make(place, encoding.Options(**compress[1])),
        )
        self.strategy: Strategy = strategy(setup, options(name, case))
        self.model.bind(*self.strategy.allocate())
        x, self.y = data()
        self.x = x.astype(dtype)
        self.split = split_of(split, self.strategy.workers)
        if comm.rank == 0:  # the others hold zeros until `start` makes all replicas one
            self.model.initialise(0)
        self.strategy.start()
        self.t = 0

    def steps(self, count: int) -> "Run":
        for left in reversed(range(count)):
            self.t += 1
            worker = None if self.strategy.behind(self.t) else self.strategy.worker
            indices, slots, total = batch(self.split, worker, self.t)
            step = Step(self.t, len(indices), total, self.lr, left == 0)
            self.model.gradients(
                self.x[indices], self.y[indices], self.strategy.scale(step), self.strategy.ready,
                between=self.strategy.advance, slots=slots,
            )  # fmt: skip
            self.strategy.step(step)
        return self

    def merged(self) -> np.ndarray:
        out = self.strategy.setup.xp.full_like(self.strategy.params, np.nan)
        self.strategy.merge(out)
        return to_host(out)


def options(name: str, case: int | dict) -> Any:
    """Those of a case, or these."""
    strategy = STRATEGIES[name]
    return strategy.Options(**(case if isinstance(case, dict) else strategy.cases[case]))


def possible(name: str, case: int | dict, ranks: int) -> bool:
    """Whether the strategy works with so few ranks."""
    if ranks < 1:
        return False
    try:
        STRATEGIES[name].count_workers(ranks, options(name, case))
    except UserError:
        return False
    return True


ALONE: dict[str, np.ndarray] = {}
LOCK = threading.Lock()


def alone(count: int, **settings) -> np.ndarray:
    """What one process gets on the whole batches; trained once, whoever of the ranks that are threads asks first."""
    key = repr((count, *sorted(settings.items())))
    with LOCK:
        if key not in ALONE:
            body = functools.partial(Run, name="allreduce", case=0, **settings)
            ALONE[key] = run_ranks(1, lambda comm: body(comm).steps(count).merged())[0]
        return ALONE[key]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def same_everywhere(comm: Communicator, vector: np.ndarray) -> bool:
    return len(set(comm.allgather(hashlib.sha256(vector.tobytes()).hexdigest()))) == 1


def from_rank(root: int, comm: Communicator, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of one rank's arrays, on every rank."""
    facts = comm.bcast({key: [array.dtype.name, array.shape] for key, array in arrays.items()}, root)
    copies = {key: np.empty(shape, dtype) for key, (dtype, shape) in facts.items()}
    for key, copy in copies.items():
        if comm.rank == root:
            copy[...] = to_host(arrays[key])
        broadcast(comm, copy, root)
    return copies
