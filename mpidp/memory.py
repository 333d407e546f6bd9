"""Does a run fit into the free memory of its hosts, or of its devices?"""

import math
import socket

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
from mpidp.strategies import Strategy


def free_share(comm: Communicator) -> int | None:
    """Bytes that this rank may take if all ranks of its host take as many; None where that is unknown."""
    free, hosts = memory_available(), comm.hosts()
    return None if free is None else free // hosts.count(hosts[comm.rank])


def require_memory(
    model: Model, strategy: type[Strategy], config: Config, comm: Communicator, place: Device
) -> None:
    """Raise UserError where the flat vectors alone of the ranks on this host, or device, exceed its free memory."""
    states = OPTIMIZERS[config.run.optimizer].state_vectors(config.optimizer)
    vectors = 1 + strategy.gradient_share(comm.size, config.sync) + strategy.extra_vectors(config.sync)
    vectors += states * strategy.optimizer_share(comm.size)
    vectors += COMPRESSORS[config.run.compress].extra_vectors(config.compress)
    if config.run.checkpoint_every and (comm.rank == 0 or not strategy.replicated):  # copied to be written
        vectors += 1 + states * strategy.optimizer_share(comm.size)
    if config.run.reproducible:  # of the tree over a rank's micro-shards
        vectors += (config.run.reproducible // comm.size).bit_length() - 1
    require_free(
        vectors * model.size * model.dtype.itemsize,
        f"--model {config.run.model} has {model.size:,} parameters: {vectors:g} vectors of {model.dtype}",
        "a smaller model, fewer ranks a host",
        comm,
        place,
    )


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
        need = model.working_memory((count, *data.schema.inputs)) if strategy.worker is not None else 0
    except MemoryError:
        need = math.inf
    shape = " x ".join(map(str, data.schema.inputs))
    require_free(
        need,
        f"--model {run.model} on {count} sample(s) of {shape} at a time: its buffers",
        f"a smaller {'--micro-batch' if count > 1 else 'model or --context'}, fewer ranks a host",
        comm,
        place,
    )


def require_free(need: float, what: str, cure: str, comm: Communicator, place: Device) -> None:
    """Raise UserError where `need` bytes for each rank on this host, or its device, are more than is free."""
    if place.free is not None:
        return place.require(need, what, cure)
    here = socket.gethostname()
    everyone = [need for host, need in comm.allgather([here, need]) if host == here]
    free = memory_available()
    if free is not None and sum(everyone) > free:
        size = f"{sum(everyone) / 2**30:.1f} GiB" if math.isfinite(sum(everyone)) else "beyond all limits"
        raise UserError(
            f"{what} for {len(everyone)} rank(s) on {here} are {size}, more than the {free / 2**30:.1f} GiB that "
            f"are free: {cure}"
        )
