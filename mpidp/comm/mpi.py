"""Ranks as MPI processes."""

import atexit
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from mpidp.comm.calls import blocking
from mpidp.comm.communicator import Communicator
from mpidp.comm.memory import Window
from mpidp.comm.pending import Pending, Unfinished
from mpidp.errors import UserError

T = TypeVar("T")

ABORTED = 2.0
"""Seconds that a launcher has to end a rank which has called MPI_Abort; MPICH's call comes back at once."""

CACHE_LINE = 64  # bytes: two ranks never write into one


def addable(buffer: np.ndarray) -> np.ndarray:
    """`buffer`; raises UserError where MPI has no sum for its type."""
    if buffer.dtype not in (np.float32, np.float64):
        raise UserError(f"--collective mpi: the MPI library cannot add {buffer.dtype}; use --collective ring")
    return buffer


class MPICommunicator(Communicator):
    """A communicator over an MPI one, with non-blocking operations only, so that every wait can be polled."""

    library = f"{MPI.get_vendor()[0]} {'.'.join(map(str, MPI.get_vendor()[1]))}"

    def __init__(self, comm: MPI.Comm):
        super().__init__(comm.rank, comm.size)
        self.comm = comm
        self.unfinished = Unfinished()
        self._held: list[MPI.Win] = []
        self._windows: list[MPIWindow] = []
        self._flags: list[memoryview] = []  # in shared memory, of each rank: fences that it has arrived at
        self._fences = 0

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Callable[[], bool]:
        return self.comm.Isend((raw, MPI.BYTE), dest, tag).Test

    def _irecv(self, raw: np.ndarray, source: int, tag: int) -> Callable[[], bool]:
        return self.comm.Irecv((raw, MPI.BYTE), source, tag).Test

    def _iprobe(self, source: int, tag: int) -> Callable[[], bool]:
        return lambda: self.comm.Iprobe(source, tag)

    def _iallreduce(self, buffer: np.ndarray) -> Callable[[], bool]:
        return self.comm.Iallreduce(MPI.IN_PLACE, addable(buffer), MPI.SUM).Test

    def _ireduce_scatter(
        self, buffer: np.ndarray, receive: np.ndarray, counts: Sequence[int]
    ) -> Callable[[], bool]:
        return self.comm.Ireduce_scatter(addable(buffer), receive, counts, MPI.SUM).Test

    def _iallgather(self, buffer: np.ndarray, counts: Sequence[int]) -> Callable[[], bool]:
        return self.comm.Iallgatherv(MPI.IN_PLACE, (buffer, counts)).Test

    def _split(self, color: int, key: int) -> Communicator:
        made = self._blocking(
            "all ranks to make a communicator (MPI_Comm_split)", lambda: self.comm.Split(color, key)
        )
        return MPICommunicator(made)

    def world_ranks(self) -> list[int]:
        return list(self.comm.group.Translate_ranks(range(self.size), MPI.COMM_WORLD.group))

    def _hosts(self) -> Sequence[int]:
        """The lowest rank of each rank's host."""
        here = self._blocking(
            "all ranks to find those of their host (MPI_Comm_split_type)",
            lambda: self.comm.Split_type(MPI.COMM_TYPE_SHARED),
        )
        lowest = np.array(here.group.Translate_ranks([0], self.comm.group), np.int64)
        here.Free()
        everyone = np.empty(self.size, np.int64)
        gather = self.comm.Iallgather(lowest, everyone)
        self.Wait(Pending([gather.Test], "all ranks to say on which host they are"))
        return everyone.tolist()

    def _share(self, n: int, dtype: np.dtype) -> list[np.ndarray]:
        if not self._held:
            self._flags = [memoryview(part).cast("q") for part in self._window(CACHE_LINE)]
            self._flags[self.rank][0] = self._fences = 0
        lengths = np.empty(self.size, np.int64)  # a library may round a part's bytes up
        gather = self.comm.Iallgather(np.array([n], np.int64), lengths)
        self.Wait(Pending([gather.Test], "all ranks to say how much memory they share"))
        return [
            np.frombuffer(part, dtype, length) if length else np.empty(0, dtype)
            for part, length in zip(self._window(n * dtype.itemsize), lengths, strict=True)
        ]

    def _window(self, nbytes: int) -> list[MPI.buffer]:
        """The parts of a new window, `nbytes` of it ours; the memory lives as long as the window, which is held."""
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})  # every rank's part on pages of its own
        window = self._blocking(
            "all ranks to share memory (MPI_Win_allocate_shared)",
            lambda: MPI.Win.Allocate_shared(nbytes, 1, info, self.comm),
        )
        window.Lock_all(MPI.MODE_NOCHECK)  # one epoch for good: `Sync` needs one
        self._held.append(window)
        return [window.Shared_query(rank)[0] for rank in range(self.size)]

    def _ibarrier(self) -> Callable[[], bool]:
        if not self._held:
            return self.comm.Ibarrier().Test
        self._held[-1].Sync()  # what we have written to shared memory is there before we are seen to arrive
        test, window = self.comm.Ibarrier().Test, self._held[-1]

        def arrived() -> bool:
            if not test():
                return False
            window.Sync()
            return True

        return arrived

    def _ifence(self) -> Callable[[], bool]:
        self._fences = fence = self._fences + 1
        window = self._held[0]
        window.Sync()  # what we have written is there before our flag is
        self._flags[self.rank][0] = fence
        flags = self._flags

        def arrived() -> bool:
            for flag in flags:
                if flag[0] < fence:
                    return False
            window.Sync()  # and their flags are read before what they have written
            return True

        return arrived

    def _unshare(self) -> None:
        while self._windows:
            self._windows.pop().Free()
        self._flags.clear()  # no view of a window outlives it
        for window in self._held:
            window.Unlock_all()
            self._blocking("all ranks to give back shared memory (MPI_Win_free)", window.Free)
        self._held.clear()

    def _allocate_window(self, n: int, dtype: np.dtype) -> Window:
        self._windows.append(MPIWindow(self, n, dtype))
        return self._windows[-1]

    def _blocking(self, what: str, call: Callable[[], T]) -> T:
        """What a call of MPI gives that cannot be polled.

        All ranks come to it from a barrier, so that it is short, and hardly ever is a rank lost in the middle of it.
        """
        self.Wait(Pending([self.comm.Ibarrier().Test], what))
        return blocking(self, what, call)

    def Abort(self, code: int) -> None:
        self.comm.Abort(code)
        time.sleep(ABORTED)
        os._exit(code)


class MPIWindow(Window):
    """A window over an MPI one, with operations that can be tested for.

    By Win.Allocate and in one epoch for good: with memory of Win.Create, or a lock taken for each operation, one rank
    waits until the other calls MPI (measured with MPICH and Open MPI, inside a host). Between hosts it does so anyway
    (MPICH over TCP). Accumulating operations, of which reading has to be one, are done element by element and in order.
    """

    def __init__(self, comm: MPICommunicator, n: int, dtype: np.dtype):
        super().__init__(comm)
        self.window = comm._blocking(
            "all ranks to make a window (MPI_Win_allocate)",
            lambda: MPI.Win.Allocate(n * dtype.itemsize, dtype.itemsize, comm=comm.comm),
        )
        self.window.Lock_all()
        np.frombuffer(self.window.tomemory(), dtype)[...] = 0
        self.window.Sync()  # it is there before another rank adds to it
        self.type = MPI.Datatype.fromcode(dtype.char)
        atexit.register(self.Free)  # a library complains of windows that are left when it ends

    def _accumulate(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        return self.window.Raccumulate(buffer, target, op=MPI.SUM).Test

    def _put(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        return self.window.Raccumulate(buffer, target, op=MPI.REPLACE).Test

    def _get(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        nothing, whole = (None, 0, self.type), (0, buffer.size, self.type)
        return self.window.Rget_accumulate(nothing, buffer, target, whole, MPI.NO_OP).Test

    def Progress(self) -> None:
        self.comm.comm.Iprobe()  # any call does

    def Free(self) -> None:
        atexit.unregister(self.Free)
        if self.window != MPI.WIN_NULL:
            self.window.Unlock_all()
            self.comm._blocking("all ranks to give back a window (MPI_Win_free)", self.window.Free)
