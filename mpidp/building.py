"""From options to the parts of a run: data, split, model, strategy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpidp import arithmetic, checkpoint, routing
from mpidp.arrays import Array
from mpidp.claim import Claim
from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError, look_after, require_same, spin_if_alone, together
from mpidp.compression import COMPRESSORS
from mpidp.config import Config
from mpidp.data import Data, Request
from mpidp.data import load as load_data
from mpidp.data.feed import Feed
from mpidp.data.split import SPLITS, Split
from mpidp.device import AUTO, CPU, opened
from mpidp.diagnostics import Diagnostics
from mpidp.errors import UserError
from mpidp.machine import pin_threads, usable_cores
from mpidp.memory import free_share, require_memory, require_working_memory
from mpidp.models import MODELS
from mpidp.nn import Model
from mpidp.nn.accumulation import Adder, InOrder, Tree
from mpidp.nn.kernels.products import Products
from mpidp.nn.replay import Replay
from mpidp.numbers.watch import Numbers
from mpidp.optim import OPTIMIZERS, SCHEDULES
from mpidp.routing import Choice
from mpidp.stragglers import Lag, lag
from mpidp.strategies import STRATEGIES, Setup, Step, Strategy
from mpidp.workspace import Resumed, from_rank_0, lasting

SHORT_BUFFERS = 1024
"""Elements: NumPy copies operands whose rows it cannot join through buffers of so many elements (8192 by default) to
have long inner loops; shorter ones stay in the first-level cache, and rows longer than them are worked on where they
are (`benchmarks/elementwise.py`)."""


@dataclass
class Job:
    """All parts of a run, on this rank."""

    config: Config
    comm: Communicator  # for control: options, losses, evaluation; the strategy has one of its own
    data: Data
    split: Split
    model: Model
    strategy: Strategy
    schedule: Any
    steps: int
    route: Choice | None
    products: Products  # who multiplies matrices
    diagnostics: Diagnostics
    lag: Lag  # of this rank, where --slow says so
    adder: Adder  # of the parts of a batch that this rank works on one after another
    feed: Feed | None = None  # on a device: what brings batches there
    claims: Sequence[Claim] = ()  # on the run's directory: rank 0's, as long as the job lives
    numbers: Numbers = field(init=False)

    def ready(self, lo: int, hi: int) -> None:
        """grads[lo:hi] is final: for the strategy, and for those who ask about this rank's own gradient before it."""
        self.diagnostics.ready(lo, hi)
        self.strategy.ready(lo, hi)

    @property
    def shards(self) -> range:
        """Of the split's shards, those of this rank: one, but for --reproducible."""
        worker, each = self.strategy.worker, self.split.workers // self.strategy.workers
        return range(0) if worker is None else range(worker * each, (worker + 1) * each)

    def shard_sizes(self) -> list[int]:
        """How many training samples each worker owns."""
        return self.split.shard_sizes().reshape(self.strategy.workers, -1).sum(1).tolist()

    def batch(self, t: int) -> tuple[Step, Array, Array, np.ndarray]:
        """This rank's part of the global batch of step t: (step, x, y, slots in the global batch)."""
        self.lag.begin()
        parts = self.parts(t)
        indices, slots = joined(parts)
        cuts: Sequence[int] = np.cumsum([len(part) for part, _ in parts[:-1]], dtype=np.int64).tolist()
        if micro := self.config.run.micro_batch:
            cuts = range(micro, len(indices), micro)
        total = self.split.batch_count(*divmod(t - 1, self.split.steps_per_epoch))
        step = Step(t, len(indices), total, self.schedule(t), self.meeting(t), cuts)
        x, y = self.feed.take(indices) if self.feed else self.data.train.batch(indices)
        return step, x, y, slots

    def prepare(self, t: int) -> None:
        """On a device: have the batch of step t brought there while it computes."""
        if self.feed and t <= self.steps:
            self.feed.prepare(joined(self.parts(t))[0])

    def parts(self, t: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(indices, slots) of this rank's samples in step t, for each of its shards."""
        epoch, turn = divmod(t - 1, self.split.steps_per_epoch)
        nothing, shards = np.empty(0, np.int64), range(0) if self.strategy.behind(t) else self.shards
        return [self.split.part(epoch, turn, shard) for shard in shards] or [(nothing, nothing)]

    def meeting(self, t: int) -> bool:
        """Whether all ranks come together after step t."""
        run = self.config.run
        return (
            t == self.steps
            or self.saves(t)
            or any(n and t % n == 0 for n in (run.eval_every, run.copy_every))
        )

    def saves(self, t: int) -> bool:
        """Whether there is to be a checkpoint after step t."""
        every = self.config.run.checkpoint_every
        return t == self.comm.stop.at or (every is not None and t % every == 0)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint of this run has to say of it, beside the strategy's arrays."""
        return {
            "data": self.data.fingerprint(),
            "options": lasting(self.config),
            "collective": self.route and self.route.name,
            "diagnostics": self.diagnostics.facts(),
            "numbers": self.numbers.facts(),
        }

    def load(self, resumed: Resumed) -> int:
        """Take up the state of a checkpoint; its step. Raises UserError where it has not what this run needs."""
        try:
            self.strategy.resume(resumed.saved(self.comm))
            self.diagnostics.load(resumed.manifest.get("diagnostics", {}))
            self.numbers.load(resumed.manifest.get("numbers", {}))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise checkpoint.unfit(resumed.path, error) from error
        return resumed.manifest["step"]


def build(config: Config, comm: Communicator, resumed: Resumed | None = None) -> Job:
    """Load the data, split it over the workers, build the model, and hand both to the strategy.

    A run resumed on as many ranks takes the route that it took before, however fast it is now, to get the same bits.
    Records in `config` who computes dense products.
    Raises SharedError on every rank for whatever does not fit together.
    """
    run = config.run
    look_after(comm, run.timeout, run.check_collectives)
    pin_threads(1 if run.reproducible else run.threads, alone=comm.size == 1)
    np.setbufsize(SHORT_BUFFERS)
    spin_if_alone(comm, usable_cores())
    dtype = arithmetic.vectors_dtype(run.dtype)
    place = together(comm, lambda: opened(run.device, run.blas, run.dtype, comm))
    if run.device == CPU and run.blas == arithmetic.AUTO:
        # Recorded, since a resumed run has the same bits with the same library alone.
        run.blas = from_rank_0(comm, lambda: arithmetic.faster(run.dtype))
    products = together(
        comm, lambda: arithmetic.products(run.blas, run.dtype) if run.device == CPU else place.products()
    )
    strategy_type = STRATEGIES[run.sync]
    workers = together(comm, lambda: strategy_type.count_workers(comm.size, config.sync))
    request = Request(
        dtype=dtype,
        seed=run.seed,
        context=getattr(config.model, "context", None),
        validation_fraction=run.validation_fraction,
        memory=free_share(comm),
    )
    data = (resumed and resumed.data) or together(comm, lambda: load_data(run.data, config.data, request))
    require_same(comm, {"training data (hash)": data.fingerprint()})
    together(comm, lambda: require_divisor(run.reproducible, comm.size))
    split = together(comm, lambda: make_split(config, data, run.reproducible or workers))
    model = together(comm, lambda: MODELS[run.model].build(config.model, data.schema, dtype))
    steps = run.steps or run.epochs * split.steps_per_epoch
    if resumed:
        require_the_rest(resumed, steps, data)
    sync = place.communicator(comm, run.device_mpi)
    by_route = strategy_type.by_route(config.sync)
    route = choose_route(config, sync, model.size, dtype, resumed) if by_route else None
    together(comm, lambda: require_memory(model, strategy_type, config, comm, place, route))
    encoding = COMPRESSORS[run.compress]
    optimizer = OPTIMIZERS[run.optimizer]
    setup = Setup(
        comm=sync,
        size=model.size,
        dtype=dtype,
        xp=place.xp,
        optimizer=lambda lo, hi, like: optimizer(config.optimizer, model.parameters, lo, hi, like),
        collective=COLLECTIVES[route.name] if route else None,
        clip=run.clip,
        parameters=model.parameters,
        seed=run.seed,
        compress=lambda place: encoding.make(place, config.compress),
    )
    strategy = together(comm, lambda: strategy_type(setup, config.sync))
    model.bind(*strategy.allocate(), products)
    together(comm, lambda: require_working_memory(model, data, split, strategy, run, comm, place))
    goes_on = resumed is not None
    diagnostics = together(comm, lambda: Diagnostics(run, steps, strategy, comm, goes_on))
    late = together(comm, lambda: lag(run.slow, strategy, goes_on))
    schedule = SCHEDULES[run.schedule](config.schedule, run.lr, steps)
    adder = Tree() if run.reproducible else InOrder()
    job = Job(
        config, comm, data, split, model, strategy, schedule, steps, route, products, diagnostics, late, adder
    )
    if place.xp is not np:
        job.feed = Feed(data.train, place.xp)
        if run.cuda_graph == AUTO:
            model.replay = Replay(model, products, lambda text: job.numbers.say(text))
    job.numbers = together(comm, lambda: Numbers(job))
    return job


def joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(indices, slots) of several shards, one after another."""
    indices, slots = (np.concatenate(column) for column in zip(*parts, strict=True))
    return indices, slots


def choose_route(config: Config, comm: Communicator, n: int, dtype: Any, resumed: Resumed | None) -> Choice:
    """The route by which n elements are summed over ranks. Raises SharedError where it cannot be taken here.

    A resumed run of as many ranks takes the one that it took, if it can, to have the same bits.
    """
    run, itemsize = config.run, np.dtype(dtype).itemsize
    strategy, encoding = STRATEGIES[run.sync], COMPRESSORS[run.compress]
    piece = strategy.summed_at_once(n, dtype, config.sync)
    name, taken = run.collective, resumed and COLLECTIVES.get(resumed.manifest.get("collective"))
    if taken and resumed.manifest["ranks"] == comm.size and taken.unable(comm, np.dtype(dtype)) is None:
        name = taken.name
    return routing.choose(
        comm, name, run.calibration, n * itemsize, piece * itemsize, dtype,
        lambda route: encoding.unable(route) is None and (not strategy.scatters or route.reduce_scatter is not None),
    )  # fmt: skip


def require_divisor(shards: int | None, ranks: int) -> None:
    """Raise UserError where `--reproducible` does not give every rank as many micro-shards."""
    if shards and shards % ranks:
        able = ", ".join(str(1 << k) for k in range(shards.bit_length()))
        raise UserError(
            f"--reproducible {shards} cuts each batch into {shards} micro-shards, which {ranks} ranks cannot share "
            f"evenly: start {able} ranks"
        )


def require_the_rest(resumed: Resumed, steps: int, data: Data) -> None:
    """Raise SharedError where a resumed run has no way to end as it would have ended without a stop."""
    done, now = resumed.manifest["step"], data.fingerprint()
    before = resumed.manifest.get("data", now)
    if steps < done:
        raise SharedError(
            f"--resume: {resumed.path} has {done} steps behind it, more than the {steps} that this run is to have: "
            f"give --steps {done} or more"
        )
    if now != before:
        raise SharedError(
            f"--resume: the data {data.name} is not what {resumed.path} was trained on (hash {now}, "
            f"then {before}): give that data, or start a new run in another --run-dir"
        )


def make_split(config: Config, data: Data, workers: int) -> Split:
    """Who works on which samples, as the options say. Raises UserError where samples or workers do not suffice."""
    run = config.run
    split = SPLITS[run.split]
    labels = data.train.labels if split.by_class else None
    return split(len(data.train), run.batch_size, workers, run.seed, labels, config.split)
