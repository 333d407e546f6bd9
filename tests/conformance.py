"""What every strategy must do, as bodies that run on any communicator: ranks as threads, and real ranks.

Nothing here names a strategy: a new line in STRATEGIES is tested as it stands, under the options of its `cases`.
"""

import functools
import hashlib
import threading

import numpy as np

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
        kind, options = OPTIMIZERS[optimizer[0]], optimizer[1]
        strategy, encoding = STRATEGIES[name], COMPRESSORS[compress[0]]
        setup = Setup(
            comm=comm.Dup(),
            size=self.model.size,
            dtype=np.dtype(dtype),
            xp=np,
            optimizer=lambda lo, hi, like: kind(kind.Options(**options), self.model.parameters, lo, hi, like),
            collective=COLLECTIVES[collective],
            clip=clip,
            parameters=self.model.parameters,
            compress=lambda place: encoding.make(place, encoding.Options(**compress[1])),
        )
        chosen = case if isinstance(case, dict) else strategy.cases[case]
        self.strategy: Strategy = strategy(setup, strategy.Options(**chosen))
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


ALONE: dict[tuple, np.ndarray] = {}
LOCK = threading.Lock()


def alone(count: int, **settings) -> np.ndarray:
    """What one process gets on the whole batches; trained once, whoever of the ranks that are threads asks first."""
    key = (count, *sorted(settings.items()))
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


def from_rank_0(comm: Communicator, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of rank 0's arrays, on every rank."""
    facts = comm.bcast({key: [array.dtype.name, array.shape] for key, array in arrays.items()})
    copies = {key: np.empty(shape, dtype) for key, (dtype, shape) in facts.items()}
    for key, copy in copies.items():
        if comm.rank == 0:
            copy[...] = arrays[key]
        broadcast(comm, copy)
    return copies


# The contracts


def equals_one_process(comm: Communicator, name: str, case: int, dtype=np.float64, limit=1e-12, split="contiguous",
                       collective="ring", steps=100):  # fmt: skip
    """≤ limit relative after 100 steps of plain SGD, uneven shards included, where the strategy says it is exact."""
    run = Run(comm, name, case, dtype=dtype, split=split, collective=collective)
    if run.strategy.exact():
        assert relative(run.steps(steps).merged(), alone(steps, dtype=dtype, split=split)) <= limit


def equals_one_process_in_float32(comm: Communicator, name: str, case: int):
    equals_one_process(comm, name, case, dtype=np.float32, limit=1e-5)


def says_truly_that_it_is_not_exact(comm: Communicator, name: str, case: int):
    """A strategy that could claim exactness but does not would escape the test above."""
    run = Run(comm, name, case)
    if not run.strategy.exact():
        assert relative(run.steps(20).merged(), alone(20)) > 1e-9


def merges_to_the_same_bits(comm: Communicator, name: str, case: int):
    """At any step, by merge into another vector or into `params`."""
    run = Run(comm, name, case)
    for count in (0, 1, 4, 5):
        one = run.steps(count).merged()
        assert np.isfinite(one).all()
        assert same_everywhere(comm, one)
    run.strategy.merge(run.strategy.params)
    assert (run.strategy.params == one).all()


def trains_on_as_if_it_were_not_merged(comm: Communicator, name: str, case: int):
    """Merging into another vector leaves the run as it was."""
    run, undisturbed = Run(comm, name, case), Run(comm, name, case)
    for count in (0, 1, 4, 5):
        run.steps(count).merged()
    undisturbed.steps(10)
    if run.strategy.worker is not None and run.strategy.deterministic:
        assert (run.strategy.params == undisturbed.strategy.params).all()


def starts_equal(comm: Communicator, name: str, case: int):
    run = Run(comm, name, case)
    assert same_everywhere(comm, run.strategy.params)
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
        sent = run.steps(1).strategy.comm.traffic - before
        assert (sent.messages, sent.bytes) == run.strategy.cost(t)
    run.steps(10)
    sent = run.strategy.comm.traffic - began
    assert (sent.messages, sent.bytes) == run.strategy.total_cost(run.t)
    run.merged()  # a message that is under way when its memory is given back would be written there all the same


def sends_what_the_formula_says_with_clipping(comm: Communicator, name: str, case: int):
    sends_what_the_formula_says(comm, name, case, clip=1.0)


def resumes_with_the_same_bits(comm: Communicator, name: str, case: int, collective="ring"):
    """Saved after 5 of 11 steps and taken up by a new run, with an optimizer that has state and clipping.

    Where what follows depends on who is late, what was taken up are the same bits.
    """
    settings = {"optimizer": ("adamw", {}), "clip": 0.5, "lr": 0.01, "collective": collective}
    whole = Run(comm, name, case, **settings).steps(5)
    saved = {key: array.copy() for key, array in whole.strategy.saved().items()}
    arrays = from_rank_0(comm, saved) | saved
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
    merged = run.steps(20).merged()
    assert np.isfinite(merged).all()
    if run.strategy.exact():
        assert relative(merged, alone(20, split="dirichlet")) <= 1e-12


def clips_the_global_gradient(comm: Communicator, name: str, case: int):
    """Where the ranks compute what one does, so they do with clipping (at a norm that many steps exceed)."""
    run = Run(comm, name, case, clip=0.05)
    if run.strategy.exact() and run.strategy.replicated:
        clipped = alone(30, clip=0.05)
        assert relative(run.steps(30).merged(), clipped) <= 1e-12
        assert relative(clipped, alone(30)) > 1e-3


def works_with_longer_messages(comm: Communicator, name: str, case: int):
    """For real ranks: there a send that nobody has asked for yet waits, and must not be written over."""
    run = Run(comm, name, case, hidden=LONG)
    merged = run.steps(20).merged()
    assert same_everywhere(comm, merged) and np.isfinite(merged).all()
    if run.strategy.exact():
        assert relative(merged, alone(20, hidden=LONG)) <= 1e-12


CONTRACTS = [
    equals_one_process,
    equals_one_process_in_float32,
    says_truly_that_it_is_not_exact,
    merges_to_the_same_bits,
    trains_on_as_if_it_were_not_merged,
    starts_equal,
    sends_what_the_formula_says,
    sends_what_the_formula_says_with_clipping,
    resumes_with_the_same_bits,
    survives_empty_shards,
    clips_the_global_gradient,
]
