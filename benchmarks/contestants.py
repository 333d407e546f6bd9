"""What `benchmarks/collectives.py` compares: routes of ours, the MPI library as a user calls it, and gloo."""

import importlib.util
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bandwidth import ALL_REDUCE, REDUCE_SCATTER
from mpidp.collectives import COLLECTIVES, ring
from mpidp.comm import Communicator

LIBRARY, GLOO = "MPI library", "gloo"
TYPE = np.dtype(np.float32)


@dataclass
class Contestant:
    """One way of making a sum: `call()` turns what the ranks' `buffer`s hold into the sum of a `part`, in `result`."""

    operation: str
    name: str
    ours: bool
    buffer: np.ndarray
    result: np.ndarray
    part: slice
    call: Callable[[], object]


def contestants(comm: Communicator, n: int, routes: Sequence[str], gloo: Any) -> list[Contestant]:
    """Everything that sums vectors of n elements (a multiple of P); `gloo` from `connect_gloo`, or None."""
    piece = np.zeros(n // comm.size, TYPE)
    everything, mine = slice(0, n), ring.chunk(n, comm.size, comm.rank)
    found = []

    def add(
        operation: str, name: str, buffer: np.ndarray, result: np.ndarray, part: slice, *call: Any
    ) -> None:
        found.append(Contestant(operation, name, name in COLLECTIVES, buffer, result, part, partial(*call)))

    for name in routes:
        route = COLLECTIVES[name]
        buffer = route.allocate(comm, n, TYPE)  # each in the memory that it sums from
        scratch, part = np.zeros(route.scratch(n, comm.size), TYPE), route.part(n, comm.size, comm.rank)
        add(ALL_REDUCE, name, buffer, buffer, everything, route.allreduce, comm, buffer, scratch)
        if route.reduce_scatter is not None:
            add(REDUCE_SCATTER, name, buffer, buffer[part], part, route.reduce_scatter, comm, buffer, scratch)

    from mpi4py import MPI  # not at the top: `comm.world.start` settles how MPI is started

    mpi, buffer = comm.comm, np.zeros(n, TYPE)
    add(ALL_REDUCE, LIBRARY, buffer, buffer, everything, mpi.Allreduce, MPI.IN_PLACE, buffer, MPI.SUM)
    add(
        REDUCE_SCATTER,
        LIBRARY,
        buffer,
        piece,
        mine,
        mpi.Reduce_scatter,
        buffer,
        piece,
        [piece.size] * comm.size,
        MPI.SUM,
    )

    if gloo is not None:
        import torch

        whole, received = torch.from_numpy(buffer), torch.from_numpy(piece)
        add(ALL_REDUCE, GLOO, buffer, buffer, everything, gloo.all_reduce, whole)
        # its name since PyTorch 2.13, and before
        scatter = getattr(gloo, "reduce_scatter_single", None) or gloo.reduce_scatter_tensor
        add(REDUCE_SCATTER, GLOO, buffer, piece, mine, scatter, received, whole)
    return found


def connect_gloo(comm: Communicator) -> Any:
    """torch.distributed with a gloo group of the same ranks, or None where PyTorch is not installed on all of them."""
    if not all(comm.allgather(importlib.util.find_spec("torch") is not None)):
        return None
    import torch
    import torch.distributed as gloo

    torch.set_num_threads(1)
    hosts = comm.allgather(socket.gethostname())
    host = hosts[0] if len(set(hosts)) > 1 else "127.0.0.1"
    limit = timedelta(seconds=60)
    store = gloo.TCPStore(host, 0, comm.size, True, limit, wait_for_workers=False) if comm.rank == 0 else None
    port = comm.bcast(store.port if store else None)
    store = store or gloo.TCPStore(host, port, comm.size, False, limit)
    gloo.init_process_group(GLOO, store=store, rank=comm.rank, world_size=comm.size, timeout=limit)
    return gloo
