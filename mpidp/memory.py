"""Does a run fit into the free memory of its hosts, or of its devices?"""

import math
import socket
from dataclasses import dataclass, replace
from typing import Any

from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator
from mpidp.compression import COMPRESSORS
from mpidp.config import Config, RunOptions
from mpidp.data import Data
from mpidp.data.split import Split
from mpidp.device import Device
from mpidp.errors import UserError
from mpidp.machine import memory_available
from mpidp.nn import Model
from mpidp.optim import OPTIMIZERS
from mpidp.routing import Choice
from mpidp.strategies import Strategy


def free_share(comm: Communicator) -> int | None:
    """Bytes that this rank may take if all ranks of its host take as many; None where that is unknown."""
    free, hosts = memory_available(), comm.hosts()
    return None if free is None else free // hosts.count(hosts[comm.rank])


@dataclass(frozen=True)
class Need:
    """Vectors of n elements that a rank holds at a time, at most, by what they are for."""

    vectors: float  # parameters, gradients, the optimizer's state, what strategy and encoding keep
    route: float  # what sums over ranks are made in
    checkpoints: float  # copies of the state, to be written beside training
    copies: float  # copies of the state, to go on from where a rank is lost
    looking: float  # the merged model beside the rank's own

    @property
    def total(self) -> float:
        return self.vectors + self.route + self.checkpoints + self.copies + self.looking

    def split(self) -> tuple["Need", "Need"]:
        """What of it lies on a device, where the vectors do, and what on its host."""
        nothing = {"checkpoints": 0.0, "copies": 0.0}
        return replace(self, **nothing), Need(0.0, 0.0, self.checkpoints, self.copies, 0.0)

    def __str__(self) -> str:
        """With what each part is for."""
        parts = (
            ("sums over ranks", self.route),
            ("checkpoints", self.checkpoints),
            ("--on-failure shrink", self.copies),
            ("evaluation", self.looking),
        )
        said = ", ".join(f"{amount:.3g} for {what}" for what, amount in parts if amount)
        return f"{self.total:.3g} vectors" + f" ({said})" * bool(said)


def need(
    strategy: type[Strategy], config: Config, rank: int, ranks: int, n: int, dtype: Any, route: Choice | None
) -> Need:
    """What rank `rank` of `ranks` holds, under this strategy and `route`; encoded messages are not counted."""
    run, options = config.run, config.sync
    encoding = COMPRESSORS[run.compress].extra_vectors(config.compress)
    share = strategy.optimizer_share(rank, ranks, options)
    optimizer = OPTIMIZERS[run.optimizer].state_vectors(config.optimizer) * share
    vectors = 1 + strategy.gradient_share(ranks, options) + strategy.extra_vectors(rank, ranks, options)
    vectors += optimizer + encoding
    if run.reproducible:  # of the tree over a rank's micro-shards
        vectors += (run.reproducible // ranks).bit_length() - 1
    chosen = COLLECTIVES[route.name] if route else None
    apart = strategy.replicas_part(ranks, options)
    state = strategy.saved_vectors(rank, ranks, options) + optimizer + encoding
    copies = 0.0
    if (
        run.copy_every and ranks > 1
    ):  # the newest of each and the one before, and of a neighbour what it alone has
        own = state if apart else encoding + optimizer * (share < 1)
        kept = not apart or len(strategy.owners(ranks, options)) > 0
        copies = 2 * (state + own * kept)
    return Need(
        vectors,
        strategy.route_memory(chosen, n, dtype, ranks, options) / max(n, 1),
        state * bool(run.checkpoint_every and (rank == 0 or apart)),
        copies,
        2.0 * apart,
    )


def require_memory(
    model: Model,
    strategy: type[Strategy],
    config: Config,
    comm: Communicator,
    place: Device,
    route: Choice | None,
) -> None:
    """Raise UserError where the flat vectors alone of the ranks on this host, or device, exceed its free memory."""
    needed = need(strategy, config, comm.rank, comm.size, model.size, model.dtype, route)
    vector = model.size * model.dtype.itemsize
    cure = "a smaller model, fewer ranks a host"

    def what(part: Need) -> str:
        return f"--model {config.run.model} has {model.size:,} parameters: {part} of {model.dtype}"

    if place.free is not None:
        needed, copied = needed.split()
        require_free_host(copied.total * vector, what(copied), cure, comm)
    require_free(needed.total * vector, what(needed), cure, comm, place)


def require_working_memory(
    model: Model,
    data: Data,
    split: Split,
    strategy: Strategy,
    run: RunOptions,
    comm: Communicator,
    place: Device,
) -> None:
    """Raise UserError where what the layers work in exceeds the free memory of this host, or device."""
    share = max(1, run.batch_size // split.workers)
    count = min(share, run.micro_batch or share)
    try:
        needed = model.working_memory((count, *data.schema.inputs)) if strategy.worker is not None else 0
    except MemoryError:
        needed = math.inf
    shape = " x ".join(map(str, data.schema.inputs))
    require_free(
        needed,
        f"--model {run.model} on {count} sample(s) of {shape} at a time: its buffers",
        f"a smaller {'--micro-batch' if count > 1 else 'model or --context'}, fewer ranks a host",
        comm,
        place,
    )


def require_free(amount: float, what: str, cure: str, comm: Communicator, place: Device) -> None:
    """Raise UserError where `amount` bytes for each rank on this host, or its device, are more than is free."""
    if place.free is not None:
        return place.require(amount, what, cure)
    require_free_host(amount, what, cure, comm)


def require_free_host(amount: float, what: str, cure: str, comm: Communicator) -> None:
    """Raise UserError where `amount` bytes for each rank on this host are more than its free memory."""
    here = socket.gethostname()
    everyone = [theirs for host, *theirs in comm.allgather([here, amount, what]) if host == here]
    free, total = memory_available(), sum(amount for amount, _ in everyone)
    if free is not None and total > free:
        size = f"{total / 2**30:.1f} GiB" if math.isfinite(total) else "beyond all limits"
        _, most = max(everyone, key=lambda theirs: theirs[0])
        raise UserError(
            f"{most} for {len(everyone)} rank(s) on {here} are {size}, more than the {free / 2**30:.1f} GiB that "
            f"are free: {cure}"
        )
