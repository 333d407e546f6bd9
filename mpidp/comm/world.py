"""Start-up: the world of ranks, made sure of before anything is computed."""

import atexit
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mpidp.comm import control, guard
from mpidp.comm.communicator import Communicator
from mpidp.comm.endings import DRAIN, end, finalise, one_line, say
from mpidp.comm.guard import Guard
from mpidp.comm.order import Orders
from mpidp.comm.stop import Stop
from mpidp.comm.threads import ThreadCommunicator
from mpidp.comm.waiting import LONG_SPIN
from mpidp.comm.watchdog import Watchdog
from mpidp.errors import Interrupted, RunError, Stopped, UserError
from mpidp.machine import shared_memory_mapped

T = TypeVar("T")

LAUNCHER_VARIABLES = {
    "PMI_SIZE": "MPICH, Intel MPI or Slurm's PMI",
    "OMPI_COMM_WORLD_SIZE": "Open MPI",
    "MV2_COMM_WORLD_SIZE": "MVAPICH",
    "SLURM_STEP_NUM_TASKS": "Slurm's srun",
}
"""What launchers tell each rank about how many it started."""

OPEN_MPI_SETTINGS = {
    "OMPI_MCA_btl": "^ofi",  # starts 4 ranks in 0.2 s instead of 1.2 s
    "OMPI_MCA_osc": "^ucx",  # no error lines about windows where there is no InfiniBand
}


def launcher_size() -> tuple[int, str] | None:
    """(number of ranks that the launcher says it started, its kind), or None where no launcher did."""
    for variable, kind in LAUNCHER_VARIABLES.items():
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable]), kind
    return None


def start(ours: Guard | None = None) -> Communicator:
    """The communicator of all ranks; without a launcher or without any MPI, that of one rank alone.

    ours: the guard of this rank.
    Raises UserError where ranks were launched but no MPI library can be loaded, and where mpirun is of one MPI and
    the library of another: then each rank would believe to be alone, or the library would end it without a reason.
    """
    from mpidp.comm.probe import initialise, library, mismatch

    launched = launcher_size()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # mpi4py's own word on a foreign launcher, from every rank; ours is enough
        found = library()
        if found.error:
            if launched is None or launched[0] == 1:
                return ThreadCommunicator(0, 1)
            raise UserError(
                f"{launched[0]} ranks were launched by {launched[1]}, but mpi4py cannot load an MPI library "
                f"({found.error}): pip install 'mpidp[mpich]', or load your cluster's MPI module"
            )
        foreign = mismatch(found.vendor) != ""
        if not foreign:
            _, size = initialise()
            foreign = launched is not None and launched[0] > 1 and size == 1
    if launched is not None and foreign:
        raise UserError(
            f"mpirun belongs to {launched[1]} and started {launched[0]} ranks, but mpi4py loaded {found.vendor} "
            f"{found.version}, in which every rank believes it is alone: use the mpirun of that library, "
            f"or install its match in this environment ({sys.prefix})"
        )
    from mpidp.comm.mpi import MPI, MPICommunicator

    comm = MPICommunicator(MPI.COMM_WORLD)
    if comm.size > 1:
        found = control.start(comm, ours)
        if isinstance(found, control.Control):
            comm.control = found
            Watchdog(found)
            comm.stop = Stop(found)
            atexit.register(finalise, comm)  # behind all that is registered later, and so in front of it
        elif comm.rank == 0:
            say(f"warning: {found}: the loss of a rank will be seen after --timeout only")
        # By them the ranks of a host have found each other, which all have now: they have exchanged messages. MPICH
        # would remove them at its end, to which a job that fails does not come. (Open MPI's mpirun tidies up itself.)
        for segment in shared_memory_mapped("mpich_shm_*"):
            segment.unlink(missing_ok=True)
    return comm


class SharedError(UserError):
    """A UserError that every rank raises, so that all can end in an orderly way with exit code 2."""


def together(comm: Communicator, body: Callable[[], T]) -> T:
    """`body()`, on every rank; where it raises UserError on some ranks, all ranks raise the same SharedError.

    So that a file that one rank cannot read ends the job with one line, instead of leaving the others waiting.
    """
    result: Any = None
    error: str | None = None
    try:
        result = body()
    except UserError as caught:
        error = str(caught)
    errors = comm.allgather(error)
    bad = [rank for rank, text in enumerate(errors) if text is not None]
    if not bad:
        return result
    first = errors[bad[0]]
    if len(bad) == comm.size:
        raise SharedError(first)
    ranks = "rank " + str(bad[0]) if len(bad) == 1 else "ranks " + ", ".join(map(str, bad))
    raise SharedError(f"{ranks}: {first}")


def require_same(comm: Communicator, facts: dict[str, Any]) -> None:
    """Raise SharedError on every rank where one rank's `facts` differ from rank 0's, naming rank and fact."""
    everyone = comm.allgather(facts)
    for rank, theirs in enumerate(everyone):
        for name in everyone[0].keys() | theirs.keys():
            ours, other = everyone[0].get(name), theirs.get(name)
            if ours != other:
                raise SharedError(
                    f"rank {rank} has {name} = {other!r}, but rank 0 has {ours!r}: "
                    "start all ranks with the same command and the same installation"
                )


def look_after(comm: Communicator, timeout: float, check_collectives: bool) -> None:
    """From now on waits of this rank last for so many seconds at most, and its calls are compared with the others'."""
    comm.timeout = timeout
    if comm.control:
        comm.control.timeout = timeout
        if check_collectives and comm.order is None:
            comm.control.orders = comm.control.orders or Orders(comm.control)
            comm.control.orders.watch(comm, f"ranks {comm.world_ranks()}")


def spin_if_alone(comm: Communicator, cores: Sequence[int]) -> None:
    """Let waits of this rank test for longer before they sleep where its host has a core for each of its ranks.

    `cores`: those that this rank may run on.
    """
    here = comm.hosts()[comm.rank]
    everyone = [
        theirs for host, theirs in zip(comm.hosts(), comm.allgather(list(cores)), strict=True) if host == here
    ]
    if comm.spin and len(everyone) <= len({core for theirs in everyone for core in theirs}):
        comm.spin = LONG_SPIN


def stand_guard() -> Guard | None:
    """A guard in front of this process where it is one of several ranks of a launcher."""
    launched = launcher_size()
    return guard.stand(launcher_rank()) if launched is not None and launched[0] > 1 else None


def guarded(body: Callable[[Communicator], int]) -> int:
    """Run `body(comm)` on this rank so that, however it ends, all ranks end; its exit code.

    An error that all ranks share (see `together`) is one line from rank 0 and exit code 2. Any other exception
    ends all ranks at once: a UserError or want of memory (code 2), a RunError (1) or an interruption (130, 143) with
    its line, anything else with its traceback (code 1), shown once. A run that a signal has stopped, with its state
    saved, is one line from rank 0 and code 3.
    """
    try:
        comm = start(stand_guard())
    except UserError as error:
        if launcher_rank() == 0:
            say(f"error: {one_line(error)}")
        time.sleep(DRAIN)
        return 2
    except KeyboardInterrupt:
        if launcher_rank() == 0:
            say(f"error: {Interrupted(signal.SIGINT)}")
        return 130
    try:
        with comm.stop.by_signals():
            return body(comm)
    except Stopped as stopped:
        if comm.rank == 0:
            say(str(stopped))
        comm.Barrier()
        return 3
    except Interrupted as error:
        return end(comm, f"error: {error}", error.code)
    except SharedError as error:
        if comm.rank == 0:
            say(f"error: {one_line(error)}")
            time.sleep(DRAIN)
        comm.Barrier()  # some launchers end the others when the first rank ends
        return 2
    except KeyboardInterrupt:
        return end(comm, f"error: rank {comm.rank} was interrupted", 130)
    except SystemExit as error:  # a library's way out, of this rank alone
        return end(
            comm, f"error: rank {comm.rank} ended early (is standard output closed?)", int(error.code or 1)
        )
    except MemoryError as error:
        text = f"error: rank {comm.rank} is out of memory ({one_line(error) or 'no detail'}): "
        return end(
            comm, text + "take a smaller model or --batch-size, --micro-batch, or fewer ranks a host", 2
        )
    except UserError as error:
        return end(comm, f"error: {one_line(error)}", 2)
    except RunError as error:
        return end(comm, f"error: {one_line(error)}", 1)
    except Exception:
        where = f" at {comm.control.where()}" if comm.control else ""
        text = f"rank {comm.rank} of {comm.size} failed{where}:\n{traceback.format_exc().rstrip()}"
        return end(comm, text, 1)


def launcher_rank() -> int:
    """This process's rank as its launcher tells it, 0 where none does: known before (and without) MPI."""
    for variable in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    return 0
