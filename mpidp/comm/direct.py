"""Messages that MPI reads from, and writes to, GPU memory by itself, and how one finds out whether it can.

A library that cannot takes the address for one of the host's and ends the process. So nobody is believed: where the
library, or a variable that switches this on in it, says yes, two ranks of a run of their own try it.

    mpirun -n 2 python -m mpidp.comm.direct

MPI knows nothing of streams: a message is started when the work on its buffer is done, also one that is received.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpidp.arrays import Array, finish
from mpidp.comm import probe
from mpidp.comm.communicator import Communicator
from mpidp.comm.on_device import DeviceCommunicator
from mpidp.comm.pending import Pending
from mpidp.comm.staging import Later, StagedCommunicator, require_contiguous

SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MPIR_CVAR_ENABLE_GPU", "MV2_USE_CUDA")
"""Of Cray's MPICH, MPICH and MVAPICH, which need not answer the question for CUDA that Open MPI's family made."""

TRIED = "mpidp-direct-messages"
SECONDS = 60.0  # for a trial


class DirectCommunicator(StagedCommunicator):
    """The communicator `inner`, of a GPU-aware MPI, for device arrays too. Windows of memory are the host's still."""

    mode = "direct"
    way = "messages read and written by MPI in GPU memory"

    def Isend(self, buffer: Array, dest: int, tag: int = 0) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Isend(buffer, dest, tag)
        later = self.later(buffer, lambda: self.inner.Isend(buffer, dest, tag))
        return Pending([later.test], "rank {} to take a message of {} bytes", dest, buffer.nbytes)

    def Irecv(self, buffer: Array, source: int, tag: int = 0) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Irecv(buffer, source, tag)
        later = self.later(buffer, lambda: self.inner.Irecv(buffer, source, tag))
        return Pending([later.test], "a message from rank {} of {} bytes", source, buffer.nbytes)

    def later(self, buffer: Array, start: Callable[[], Pending]) -> Later:
        require_contiguous(buffer)
        return Later(self, self.xp.cuda.get_current_stream().record(), start)

    # The library's collectives, which all ranks must start in one order: the host waits for the device here

    def Iallreduce(self, buffer: Array) -> Pending:
        finish(self.xp)
        return self.inner.Iallreduce(buffer)

    def Ireduce_scatter(self, buffer: Array, receive: Array, counts: Sequence[int]) -> Pending:
        finish(self.xp)
        return self.inner.Ireduce_scatter(buffer, receive, counts)

    def Iallgather(self, buffer: Array, counts: Sequence[int]) -> Pending:
        finish(self.xp)
        return self.inner.Iallgather(buffer, counts)

    def twin(self, inner: Communicator) -> DeviceCommunicator:
        return DirectCommunicator(inner, self.xp, self.pool)


def promised() -> bool:
    """Whether anything says that MPI reads GPU memory."""
    return bool(probe.gpu_aware(probe.library().path)) or any(
        os.environ.get(name) == "1" for name in SWITCHES
    )


def why_not() -> str:
    """Why MPI does not read GPU memory here, as two ranks find (one where there is no launcher); "" where it does."""
    found = probe.launcher()
    ranks = 2 if found else 1
    start = [found.path, "-n", "2"] if found else []
    code, text = probe.run([*start, sys.executable, "-m", "mpidp.comm.direct"], SECONDS)
    if code == 0 and text.count(TRIED) == ranks:
        return ""
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")[:200]
    return f"a trial of {ranks} rank(s) ended with code {code}" + (f": {last}" if last else "")


def trial(xp: Any) -> None:
    """Pass short and long messages on from GPU to GPU, and add some up. Raises ArithmeticError."""
    from mpidp.comm.mpi import MPI, MPICommunicator

    inner = MPICommunicator(MPI.COMM_WORLD)
    comm = DirectCommunicator(inner, xp)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for n in (1, 1000, 1 << 20):
        ours, theirs = xp.full(n, comm.rank, np.float32), xp.empty(n, np.float32)
        comm.Wait(comm.Irecv(theirs, left), comm.Isend(ours, right))
        require(theirs, left)
        comm.Wait(comm.Iallreduce(ours))
        require(ours, comm.size * (comm.size - 1) / 2)


def require(found: Array, expected: float) -> None:
    wrong = np.count_nonzero(found.get() != expected)
    if wrong:
        raise ArithmeticError(f"{wrong} of {found.size} elements arrived wrong")


def main() -> None:
    """Try it on one of the GPUs in turn, and say so."""
    probe.library()
    rank, _ = probe.initialise()
    import cupy

    cupy.cuda.Device(rank % cupy.cuda.runtime.getDeviceCount()).use()
    trial(cupy)
    os.write(1, f"{TRIED}\n".encode())  # whole: not mixed with the other's


if __name__ == "__main__":
    main()
