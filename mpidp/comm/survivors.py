"""The ranks that are left of a job: whether it can do without the others, their communicator, and how they end."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpi4py import MPI

from mpidp.comm.communicator import Communicator
from mpidp.comm.control import Control
from mpidp.comm.guard import finalised
from mpidp.comm.mpi import MPICommunicator
from mpidp.comm.probe import is_open_mpi

ULFM = "OMPI_MCA_mpi_ft_enable"  # what Open MPI's `mpirun --with-ft ulfm` sets
TRIES = 100
"""How often a library is let to complain of what lost ranks have begun, before it is asked for something new."""

RECOVERABLE = "PRTE_MCA_state_base_recoverable"


def unable() -> str | None:
    """Why this job ends as soon as one of its ranks does, and what to do; None where it can live on."""
    vendor = MPI.get_vendor()[0]
    if is_open_mpi(vendor):
        if os.environ.get(RECOVERABLE) == "1" or with_ulfm():
            return None
        return f"Open MPI's mpirun ends all ranks when one ends: set {RECOVERABLE}=1 for it, or add --with-ft ulfm"
    if "PMI_FD" not in os.environ:
        return f"{vendor} was not started by its own mpirun, the one launcher that lets the others live on"
    return None


def with_ulfm() -> bool:
    """Whether Open MPI was started with its fault tolerance (ULFM) switched on."""
    return os.environ.get(ULFM, "").lower() in ("1", "true", "ulfm", "mpi")


def gather(world: Communicator, ranks: Sequence[int]) -> Communicator:
    """The communicator of these ranks of the job's `world`, all of which call this.

    The old ones are left as they are: to free them, or the windows made of them, takes all of their ranks.
    """
    control = world.control
    for _ in range(TRIES):
        with contextlib.suppress(MPI.Exception):
            world.comm.Iprobe()
    with control.blocked(f"ranks {', '.join(map(str, ranks))} to form a communicator"):
        if is_open_mpi(MPI.get_vendor()[0]) and with_ulfm():
            made = world.comm.Shrink()
        else:  # its tag keeps one such meeting apart from the next, of fewer ranks
            made = world.comm.Create_group(world.comm.group.Incl(ranks), world.size - len(ranks))
    left = MPICommunicator(made)
    left.timeout, left.control, left.stop = world.timeout, control, world.stop
    hosts = world.hosts()
    order = list(dict.fromkeys(hosts[rank] for rank in ranks))
    left.known_hosts = tuple(order.index(hosts[rank]) for rank in ranks)
    return left


def leave(control: Control, code: int) -> NoReturn:
    """End this rank with this exit code, without MPI's own end: that would wait for those who are lost.

    All others have finished.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.split(maxsplit=5)[-1]
        if name.startswith("/dev/shm/") and not name.endswith("(deleted)"):
            Path(name).unlink(missing_ok=True)  # nobody else tidies up
    control.close()
    finalised()
    os._exit(code)
