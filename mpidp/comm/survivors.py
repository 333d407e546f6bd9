"""The ranks that are left of a job: whether it can do without the others, their communicator, and how they end."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mpi4py import MPI

from mpidp.comm.beginning import RECOVERABLE, recoverable, with_ulfm
from mpidp.comm.calls import blocking
from mpidp.comm.communicator import Communicator
from mpidp.comm.control import Control
from mpidp.comm.guard import finalised
from mpidp.comm.mpi import MPICommunicator
from mpidp.comm.probe import is_open_mpi
from mpidp.machine import shared_memory_mapped

TRIES = 100
"""How often a library is let to complain of what lost ranks have begun, before it is asked for something new."""


def unable() -> str | None:
    """Why this job ends as soon as one of its ranks does, and what to do; None where it can live on."""
    vendor = MPI.get_vendor()[0]
    if is_open_mpi(vendor):
        if with_ulfm() or recoverable():
            return None
        return (
            f"Open MPI's mpirun ends all ranks when one ends: set PRTE_MCA_{RECOVERABLE}=1 in the environment that you "
            "start it in, or add --with-ft ulfm"
        )
    if "PMI_FD" not in os.environ:
        return f"{vendor} was not started by its own mpirun, the one launcher that lets the others live on"
    return None


def gather(world: Communicator, ranks: Sequence[int]) -> Communicator:
    """The communicator of these ranks of the job's `world`, all of which call this.

    The old ones are left as they are: to free them, or the windows made of them, takes all of their ranks.
    """
    control = world.control
    for _ in range(TRIES):
        with contextlib.suppress(MPI.Exception):
            world.comm.Iprobe()

    def make() -> MPI.Comm:
        if is_open_mpi(MPI.get_vendor()[0]) and with_ulfm():
            return world.comm.Shrink()
        # The tag keeps one such meeting apart from the next, of fewer ranks.
        return world.comm.Create_group(world.comm.group.Incl(ranks), world.size - len(ranks))

    made = blocking(world, f"ranks {', '.join(map(str, ranks))} to make a communicator", make)
    left = MPICommunicator(made)
    left.timeout, left.control, left.stop = world.timeout, control, world.stop
    if hosts := world.known_hosts:
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
    for path in shared_memory_mapped():
        path.unlink(missing_ok=True)  # nobody else tidies up
    control.close()
    finalised()
    os._exit(code)
