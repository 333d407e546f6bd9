"""The ways by which `gpu_collectives.py` sums vectors on GPUs: ours as far as they can be taken here, and NCCL."""

from typing import Any

from benchmarks.contestants import TYPE
from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator
from mpidp.comm.direct import DirectCommunicator, promised, why_not
from mpidp.comm.staging import StagedCommunicator

PEERS, STAGED, DIRECT, NCCL = "peer memory", "staged", "GPU-aware MPI", "NCCL"


def places(comm: Communicator, xp: Any) -> list[list[Any]]:
    """Every rank's host and GPU."""
    number = xp.cuda.Device().id
    return comm.allgather([comm.hosts()[comm.rank], xp.cuda.runtime.deviceGetPCIBusId(number)])


def ways(comm: Communicator, xp: Any, notes: list[str]) -> dict[str, Communicator]:
    """The communicators by which vectors are summed; what is left out is said in `notes`."""
    staged = StagedCommunicator(comm.Dup(), xp)
    found: dict[str, Communicator] = {STAGED: staged}
    if reason := COLLECTIVES["shared"].unable(staged, TYPE):
        notes.append(f"{PEERS} is left out: {reason}")
    else:
        found = {PEERS: StagedCommunicator(comm.Dup(), xp)} | found
    reason = comm.bcast(
        (why_not() if promised() else "MPI does not say that it can") if comm.rank == 0 else None
    )
    if reason:
        notes.append(f"{DIRECT} is left out: {reason}")
    else:
        found[DIRECT] = DirectCommunicator(comm.Dup(), xp)
    return found


def connect_nccl(comm: Communicator, xp: Any, notes: list[str]) -> Any:
    """NCCL's communicator of these ranks; None, with the reason in `notes`, where there is none."""
    gpus = places(comm, xp)
    if len({tuple(gpu) for gpu in gpus}) < len(gpus):
        notes.append(f"{NCCL} is left out: it refuses several ranks on one GPU")
        return None
    try:
        from cupy.cuda import nccl

        missing = not nccl.available
    except ImportError:
        missing = True
    if any(comm.allgather(missing)):
        notes.append(f"{NCCL} is left out: CuPy finds none (pip install nvidia-nccl-cu13, or -cu12)")
        return None
    name = comm.bcast(list(nccl.get_unique_id()) if comm.rank == 0 else None)
    return nccl.NcclCommunicator(comm.size, tuple(name), comm.rank)
