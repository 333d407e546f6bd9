"""What every strategy must do, as bodies that run on any communicator: ranks as threads, and real ranks.

Nothing here names a strategy: a new line in STRATEGIES is tested as it stands, under the options of its `cases`.
"""

import functools

import numpy as np

from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator, run_ranks
from mpidp.data import Schema
from mpidp.data.split import SPLITS
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.nn import Model
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import STRATEGIES, Setup, Step, Strategy

SAMPLES, FEATURES, CLASSES = 61, 5, 3  # 61 is prime: no number of ranks divides it
BATCH = 17  # neither it
CASES = [(name, i) for name, strategy in STRATEGIES.items() for i in range(len(strategy.cases))]
SGD = ("sgd", {})


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(SAMPLES, FEATURES)), rng.integers(0, CLASSES, SAMPLES).astype(np.int32)


def make_model(dtype) -> Model:
    mlp = MODELS["mlp"]
    return mlp.build(mlp.Options(), Schema("classes", (FEATURES,), CLASSES), dtype)


class Run:
    """A strategy at work on this rank, on a small classifier with uneven shards."""

    def __init__(self, comm: Communicator, name: str, case: int | dict, dtype=np.float64, optimizer=SGD, clip=None,
                 split="contiguous", collective="ring", lr=0.2):  # fmt: skip
        self.comm, self.lr = comm, lr
        self.model = make_model(dtype)
        kind, options = optimizer
        kind = OPTIMIZERS[kind]
        strategy = STRATEGIES[name]
        setup = Setup(
            comm=comm.Dup(),
            size=self.model.size,
            dtype=np.dtype(dtype),
            xp=np,
            optimizer=lambda lo, hi, like: kind(kind.Options(**options), self.model.parameters, lo, hi, like),
            collective=COLLECTIVES[collective],
            clip=clip,
            parameters=self.model.parameters,
        )
        chosen = case if isinstance(case, dict) else strategy.cases[case]
        self.strategy: Strategy = strategy(setup, strategy.Options(**chosen))
        self.model.bind(*self.strategy.allocate())
        self.x, self.y = data()
        self.x = self.x.astype(dtype)
        labels, workers = self.y, self.strategy.workers
        self.split = SPLITS[split](SAMPLES, BATCH, workers, 3, labels, SPLITS[split].Options())
        if comm.rank == 0:  # the others hold zeros until `start` makes all replicas one
            self.model.initialise(0)
        self.strategy.start()
        self.t = 0

    def steps(self, count: int) -> "Run":
        for left in reversed(range(count)):
            self.t += 1
            epoch, turn = divmod(self.t - 1, self.split.steps_per_epoch)
            indices, slots = np.empty(0, int), np.empty(0, int)
            if self.strategy.worker is not None and not self.strategy.behind(self.t):
                indices, slots = self.split.part(epoch, turn, self.strategy.worker)
            step = Step(self.t, len(indices), self.split.batch_count(epoch, turn), self.lr, left == 0)
            self.model.gradients(
                self.x[indices], self.y[indices], self.strategy.scale(step), self.strategy.ready,
                between=self.strategy.advance, slots=slots,
            )  # fmt: skip
            self.strategy.step(step)
        return self

    def merged(self) -> np.ndarray:
        out = np.full_like(self.strategy.params, np.nan)
        self.strategy.merge(out)
        return out


def possible(name: str, case: int, ranks: int) -> bool:
    """Whether the strategy works with so few ranks."""
    strategy = STRATEGIES[name]
    try:
        strategy.count_workers(ranks, strategy.Options(**strategy.cases[case]))
    except UserError:
        return False
    return True


@functools.cache
def alone(count: int, **settings) -> np.ndarray:
    """What one process gets on the whole batches."""
    return run_ranks(1, lambda comm: Run(comm, "allreduce", 0, **settings).steps(count).merged())[0]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gathered(comm: Communicator, vector: np.ndarray) -> list[str]:
    return comm.allgather(vector.tobytes().hex())


# The contracts


def equals_one_process(comm: Communicator, name: str, case: int, dtype=np.float64, limit=1e-12, split="contiguous",
                       collective="ring"):  # fmt: skip
    """≤ limit relative after 100 steps of plain SGD, uneven shards included, where the strategy says it is exact."""
    settings = {"dtype": dtype, "split": split, "collective": collective}
    run = Run(comm, name, case, **settings)
    if run.strategy.exact():
        assert relative(run.steps(100).merged(), alone(100, **settings)) <= limit


def says_truly_that_it_is_not_exact(comm: Communicator, name: str, case: int):
    """A strategy that could claim exactness but does not would escape the test above."""
    run = Run(comm, name, case)
    if not run.strategy.exact():
        assert relative(run.steps(20).merged(), alone(20)) > 1e-9


def merges_to_the_same_bits(comm: Communicator, name: str, case: int):
    """At any step, by merge into another vector or into `params`; the former leaves the run as it was."""
    run, undisturbed = Run(comm, name, case), Run(comm, name, case)
    for count in (0, 1, 4, 5):
        run.steps(count)
        undisturbed.steps(count)
        one = run.merged()
        assert np.isfinite(one).all()
        assert len(set(gathered(comm, one))) == 1
        if run.strategy.worker is not None and run.strategy.deterministic:
            assert (run.strategy.params == undisturbed.strategy.params).all()
    run.strategy.merge(run.strategy.params)
    assert (run.strategy.params == one).all()


def starts_equal(comm: Communicator, name: str, case: int):
    run = Run(comm, name, case)
    assert len(set(gathered(comm, run.strategy.params))) == 1
    fresh = make_model(np.float64)
    fresh.bind(np.zeros(fresh.size), np.zeros(fresh.size))
    fresh.initialise(0)
    assert (run.strategy.params == fresh.params).all()


def sends_what_the_formula_says(comm: Communicator, name: str, case: int, clip=None, collective="ring"):
    """In every step; of what is not deterministic, in all steps together."""
    run = Run(comm, name, case, clip=clip, collective=collective)
    began = run.strategy.comm.traffic.copy()
    for t in range(1, 11) if run.strategy.deterministic else ():
        before = run.strategy.comm.traffic.copy()
        run.steps(1)
        sent = run.strategy.comm.traffic - before
        assert (sent.messages, sent.bytes) == run.strategy.cost(t)
    run.steps(10)
    sent = run.strategy.comm.traffic - began
    assert (sent.messages, sent.bytes) == run.strategy.total_cost(run.t)


def resumes_with_the_same_bits(comm: Communicator, name: str, case: int, collective="ring"):
    """Saved after 5 of 11 steps and taken up by a new run, with an optimizer that has state and clipping.

    Where what follows depends on who is late, what was taken up are the same bits.
    """
    settings = {"optimizer": ("adamw", {}), "clip": 0.5, "lr": 0.01, "collective": collective}
    whole = Run(comm, name, case, **settings).steps(5)
    saved = {key: array.copy() for key, array in whole.strategy.saved().items()}
    listed = comm.bcast({key: array.tolist() for key, array in saved.items()})
    arrays = {key: np.array(value) for key, value in listed.items()} | saved
    before = whole.merged()
    whole.steps(6)
    again = Run(comm, name, case, **settings)
    again.strategy.params[...] = arrays["params"]
    comm.Barrier()  # where there is one copy of the parameters, all have written it before one steps
    again.strategy.load_state(
        {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    )
    again.t = 5
    assert (again.merged() == before).all()
    again.steps(6)
    if not again.strategy.deterministic:
        assert np.isfinite(again.merged()).all()
        return
    assert (again.merged() == whole.merged()).all()
    if again.strategy.worker is not None:
        assert (again.strategy.params == whole.strategy.params).all()


def survives_empty_shards(comm: Communicator, name: str, case: int):
    """The Dirichlet split leaves workers without samples in some steps; nothing is dropped or counted twice."""
    run = Run(comm, name, case, split="dirichlet")
    if run.strategy.exact():
        assert relative(run.steps(20).merged(), alone(20, split="dirichlet")) <= 1e-12
    else:
        assert np.isfinite(run.steps(20).merged()).all()


def clips_the_global_gradient(comm: Communicator, name: str, case: int):
    """Where the ranks compute what one does, so they do with clipping (at a norm that many steps exceed)."""
    settings = {"clip": 0.05}
    run = Run(comm, name, case, **settings)
    if run.strategy.exact() and run.strategy.replicated:
        assert relative(run.steps(30).merged(), alone(30, **settings)) <= 1e-12
        assert relative(alone(30, **settings), alone(30)) > 1e-3


CONTRACTS = [
    equals_one_process,
    says_truly_that_it_is_not_exact,
    merges_to_the_same_bits,
    starts_equal,
    sends_what_the_formula_says,
    resumes_with_the_same_bits,
    survives_empty_shards,
    clips_the_global_gradient,
]
