"""The contract of a strategy: how P ranks that each hold a gradient come to update one model.

A strategy is one verb, `step`, with what it needs around it. To add one: write a file here with a subclass of
`Strategy`, add its line to `STRATEGIES` in `__init__.py`, and the conformance suite tests it as it tests the others.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpidp.arrays import Array, zeros
from mpidp.collectives import Collective, Cost, broadcast
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import Communicator
from mpidp.compression import Place, Sum
from mpidp.nn.layer import Parameter
from mpidp.optim import clip_factor, clip_scale, squared_norm
from mpidp.options import NoOptions
from mpidp.strategies.state import Stateful

NORM = 3  # message tag


@dataclass(frozen=True)
class Setup:
    """What every strategy is given: its communicator, the model's size, and how to make its parts."""

    comm: Communicator
    size: int  # n, elements of the flat vector
    dtype: Any
    xp: Any  # the array module: numpy or cupy
    optimizer: Callable[[int, int, Array], Any]  # (lo, hi, like) -> optimizer of that slice
    collective: Collective | None
    clip: float | None  # limit on the gradient's norm
    parameters: Sequence[Parameter] = ()  # the model's tensors: names, shapes, places in the flat vector
    seed: int = 0  # of whatever a strategy draws
    compress: Callable[[Place], Sum] = Sum  # makes what sums vectors over ranks, encoded as the user chose

    def scratch(self, n: int, *comms: Communicator) -> Array:
        """Memory in which the route sums vectors of up to n elements, over any of `comms` (default: all ranks)."""
        longest = max(self.collective.scratch(n, comm.size) for comm in comms or [self.comm])
        return self.xp.empty(longest, self.dtype)


@dataclass(frozen=True)
class Step:
    """One step of training: t = 1, 2, ...; this rank's samples in it and those of all ranks; the learning rate.

    cuts: where the rank's samples are cut into parts that it works on one after another.
    """

    t: int
    samples: int
    total: int
    lr: float
    meeting: bool = True
    """Whether all ranks come together after it: to evaluate, to write a checkpoint, at the end."""
    cuts: Sequence[int] = ()

    def left_out(self) -> "Step":
        """What there is of this step where all ranks leave it out: no samples."""
        return replace(self, samples=0, total=0, cuts=())


class Strategy(Stateful):
    """Data parallelism by one rule of synchronisation.

    Life: `allocate`, the model binds to the two vectors, on rank 0 it initialises; `start`; then for each step the
    model writes grads = scale(step) · Σ dloss_i (announcing finished slices by `ready`, and calling `advance` between
    its layers) and `step` updates `params`;
    `merge` whenever the one model is wanted.
    """

    Options: type = NoOptions
    uses_collective = True
    """Whether the route (`--collective`) means anything to this strategy."""
    scatters = False
    """Whether it sums each rank's part at that rank, for which not every route has an algorithm."""
    depends_on_ranks: str | None = "computes what depends on how many ranks there are"
    """Why its bits do (read after its name) even if the route adds gradients in one order for all; else None."""
    deterministic = True
    """Whether a run repeated has the same bits, and `cost(t)` is what each step sends, whichever rank is late."""
    why_no_skip: str | None = None
    """Why all ranks together cannot leave a step out (read after its name); None: they can, by `skip`."""
    leaves_mean_gradient = False
    """Whether `step` leaves the mean gradient over the global batch in `grads`, on every rank, as it was summed."""
    encodes: str | None = None
    """What an encoding (`--compress`) may carry here, by the names that `Encoding.unfit` knows; None: nothing."""
    why_plain = "sends no sum over ranks that could be encoded"

    cases: Sequence[dict[str, Any]] = ({},)
    """Options under which the conformance suite runs this strategy: at least one for each rule that it has."""

    def __init__(self, setup: Setup, options: Any):
        self.setup = setup
        self.comm = setup.comm
        self.options = options
        self.workers = self.count_workers(self.comm.size, options)
        self.worker: int | None = self.comm.rank if self.comm.rank < self.workers else None
        self.seconds_communication = 0.0  # of this rank's time: messages started, moved on, waited for
        self.params: Array = None
        self.grads: Array = None
        self.summing: Sum | None = None

    @classmethod
    def count_workers(cls, ranks: int, options: Any) -> int:
        """How many ranks hold samples: ranks 0 .. workers - 1. Raises UserError where `ranks` is too small."""
        return ranks

    @classmethod
    def summed_at_once(cls, n: int, dtype: Any, options: Any) -> int:
        """How many of n elements it sums at a time by a route that moves them while backward computes."""
        return n

    @classmethod
    def by_route(cls, options: Any) -> bool:
        """Whether it sums by the route that was chosen, under these options."""
        return cls.uses_collective

    @classmethod
    def check(cls, options: Any, run: Any) -> None:
        """Raise UserError where these options and those of the run (`config.RunOptions`) do not go together."""

    @classmethod
    def optimizer_share(cls, rank: int, ranks: int, options: Any) -> float:
        """The share of the optimizer's state that rank `rank` of `ranks` holds."""
        return 1.0

    @classmethod
    def gradient_share(cls, ranks: int, options: Any) -> float:
        """The share of `grads` that takes memory on a rank for longer than a bucket travels."""
        return 1.0

    @classmethod
    def replicas_part(cls, ranks: int, options: Any) -> bool:
        """Whether `params` differ between workers while they train; `replicated` is the same of an instance."""
        return not cls.replicated

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: Any) -> float:
        """How many vectors of n elements `saved(whole=True)` gives, beside the optimizer's and the encoding's."""
        return 1

    @classmethod
    def extra_vectors(cls, rank: int, ranks: int, options: Any) -> float:
        """How many vectors of n elements this rank keeps beside `params`, `grads` and the optimizer's state.

        What the route sums in is not among them: that is `route_memory`.
        """
        return cls.saved_vectors(rank, ranks, options) - 1

    @classmethod
    def route_memory(cls, route: Collective | None, n: int, dtype: Any, ranks: int, options: Any) -> int:
        """How many elements of memory sums are made in: those of a piece, for each that is under way."""
        if route is None:
            return 0
        piece = max(1, cls.summed_at_once(n, dtype, options)) if route.lanes else n
        return max(1, min(route.lanes, -(-n // piece))) * route.scratch(piece, ranks)

    def allocate(self) -> tuple[Array, Array]:
        """The two flat vectors, `params` and `grads`, in the memory that this strategy wants."""
        n, dtype, route = self.setup.size, np.dtype(self.setup.dtype), self.setup.collective
        self.params = zeros(self.setup.xp, n, dtype)
        self.grads = route.allocate(self.comm, n, dtype) if route else zeros(self.setup.xp, n, dtype)
        return self.params, self.grads

    def start(self) -> None:
        """Make all replicas equal to rank 0's, and set up state that depends on the initial parameters."""
        with self.communicating():
            broadcast(self.comm, self.params)

    def scale(self, step: Step) -> float:
        """The factor by which the sum of the samples' losses is differentiated: 1 / (samples of all ranks).

        The sum over ranks is then the mean over the global batch, weighted by sample counts, and no partial sum
        can exceed what a mean may be.
        """
        return 1.0 / step.total

    def ready(self, lo: int, hi: int) -> None:
        """grads[lo:hi] is final for this step (slices come from the tail to the head); called during backward."""

    def advance(self) -> None:
        """Go on with what `ready` has started, without waiting; called often during backward.

        MPI moves messages on in calls to it alone, and few calls are better than a thread that takes the core.
        """

    def behind(self, t: int) -> bool:
        """Whether this rank leaves step t out, because the others have made it already: no samples, no messages."""
        return False

    def step(self, step: Step) -> None:
        """Turn this rank's gradient into an update of the shared model."""
        raise NotImplementedError

    def skip(self, step: Step) -> None:
        """All ranks leave this step out (`Step.left_out`): no gradient is used, and no optimizer steps.

        What is due at t whatever the gradients are (an average, a mixing) takes place.
        """

    def drain(self) -> None:
        """Return when what was started to go on beside the next steps is complete; it is used when it is due."""

    def merge(self, out: Array) -> None:
        """out ← the one model, the same bits on every rank. `out` may be `params`; if not, training is not touched."""
        if out is not self.params:
            out[...] = self.params

    def exact(self) -> bool:
        """Whether, under plain SGD, the ranks compute what one rank computes on the whole batch."""
        return True

    def cost(self, t: int) -> tuple[int, int]:
        """(messages, bytes) that this rank sends in step t, by the published formula; tests hold traffic to it."""
        return 0, 0

    def total_cost(self, t: int) -> tuple[int, int]:
        """(messages, bytes) that this rank has sent when all ranks have made steps 1 to t and come together.

        Where a strategy is not `deterministic`, which step a message belongs to depends on who comes when, and tests
        hold this sum alone to the traffic; where even their number does, it counts what happened (pushes, say), not
        messages.
        """
        costs = [self.cost(i) for i in range(1, t + 1)]
        return sum(messages for messages, _ in costs), sum(sent for _, sent in costs)

    def allreduce_cost(self) -> tuple[int, int]:
        """(messages, bytes) of this rank in one all-reduce of `grads` by the chosen route."""
        return self.route_cost(self.setup.collective.cost)

    def route_cost(
        self, cost: Cost, n: int | None = None, comm: Communicator | None = None
    ) -> tuple[int, int]:
        """One of the route's costs, for n elements (default: the flat vector) over `comm` (default: all ranks)."""
        n, comm = self.setup.size if n is None else n, comm or self.comm
        return cost(n, comm.hosts(), comm.rank, plain_bytes(self.setup.dtype))

    def add_over(self, ranks: Sequence[int], value: float) -> float:
        """Σ of one number over `ranks`, in their order: the same bits on each of them; 0 where clipping is off.

        Cost: from each of them a message of 8 bytes to every other.
        """
        if self.setup.clip is None:
            return 0.0
        numbers = {rank: np.array([value]) for rank in ranks}
        others = [rank for rank in ranks if rank != self.comm.rank]
        receives = [self.comm.Irecv(numbers[rank], rank, NORM) for rank in others]
        sends = [self.comm.Isend(numbers[self.comm.rank], rank, NORM) for rank in others]
        self.comm.Wait(*receives, *sends)
        return float(sum(number[0] for number in numbers.values()))

    def make_sum(self, comm: Communicator | None = None) -> Sum:
        """What sums vectors of n elements over ranks, as `--compress` says: `self.summing` from now on."""
        setup, dtype = self.setup, np.dtype(self.setup.dtype)
        comm = comm or self.comm
        place = Place(comm, setup.collective, setup.size, dtype, setup.xp, setup.parameters, setup.seed)
        self.summing = setup.compress(place)
        return self.summing

    def report(self) -> dict[str, float]:
        """What this rank has to tell at a logged step, beside the loss: rank 0's figures go into metrics.jsonl.

        No rank waits for another here: what needs a sum over ranks is made in `step`.
        """
        return {}

    def summary(self) -> dict[str, Any]:
        """What the run's summary says of this strategy beyond what it says of all: called on every rank together."""
        return {}

    def clip_factor(self, squared: float) -> float:
        """min(1, clip / ‖g‖) for a gradient of this squared norm."""
        return 1.0 if self.setup.clip is None else clip_scale(math.sqrt(squared), self.setup.clip)

    def clipping(self, grads: Array) -> float | Array:
        """The same of a gradient that lies here whole, for `Optimizer.step`: a device need not be waited for."""
        return 1.0 if self.setup.clip is None else clip_factor(grads, self.setup.clip)

    def squared_norm(self, grads: Array) -> float:
        """‖g‖² where clipping asks for it, else 0 without a pass over the vector."""
        return 0.0 if self.setup.clip is None else squared_norm(grads)

    @contextlib.contextmanager
    def communicating(self) -> Iterator[None]:
        """Count the time inside as communication."""
        began = time.perf_counter()
        yield
        self.seconds_communication += time.perf_counter() - began
