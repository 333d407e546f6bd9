"""Vectors in GPU memory that the ranks of one host reach in each other's, with any MPI: CUDA's inter-process handles.

Each vector is an allocation of its own (`cudaMalloc`, in whole blocks of 2 MiB: a handle opens the whole block in which
an allocation lies, and memory pools cut theirs). Its owner makes a handle of it, the others open that, and from then on
a kernel of theirs reads and writes it, through the GPU's own memory where they share one, else over NVLink or PCIe.
Ranks that are threads of one process need no handle, and could not open one that their own process made.

Nothing is touched before the work on it is done: a fence records an event of this rank's stream, meets the others on
the host (so that every event is recorded), and lets the stream wait for theirs; no host waits for a device. A rank has
two events, used in turn: who passes a fence knows that all have begun to wait for the events of the fence before it.
Source for handles, events and their order: CUDA C++ Programming Guide, "Interprocess Communication".
"""

import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm.communicator import Communicator, Traffic
from mpidp.errors import RunError

HERE: "weakref.WeakValueDictionary[str, Peers]" = weakref.WeakValueDictionary()
"""Those of this process, by which ranks that are threads find each other's."""

BLOCK = 2 << 20  # bytes
ALREADY_ENABLED = 704  # cudaErrorPeerAccessAlreadyEnabled


class Unreachable(RunError):
    """A GPU does not let its memory be reached, or reach another's: raised on all ranks alike."""


def told(comm: Communicator, value: Any) -> list[Any]:
    """The JSON-able `value` of every rank; no messages of the run's, and so not counted."""
    counted, comm.traffic = comm.traffic, Traffic()
    try:
        return comm.allgather(value)
    finally:
        comm.traffic = counted


class Peers:
    """What GPUs let the ranks of `comm`, which are on one host, reach of each other. All ranks make it together.

    Raises Unreachable.
    """

    def __init__(self, comm: Communicator, xp: Any):
        self.comm, self.xp, self.runtime = comm, xp, xp.cuda.runtime
        self.number = xp.cuda.Device().id
        self.of_the_limit = 0  # bytes by which the pool's limit has come down for it
        self.memory: list[Any] = []  # ours, which lives as long as any rank of this process may look at it
        self.opened: list[int] = []  # addresses at which memory of other processes is
        self.fences = 0
        comm.Allocate_shared(1, np.uint8)  # the host's own flags, by which ranks meet at a fence
        self.name = uuid.uuid4().hex  # numbers of processes repeat, where each has a container of its own
        HERE[self.name] = self
        self.places: list[tuple[str, int]] = told(comm, [self.name, self.number])
        self.kin = [
            HERE.get(name) for name, _ in self.places
        ]  # of each rank that is a thread of this process
        self.apart = None in self.kin
        self.gathered("reach the others' GPUs", self.enable)
        event = xp.cuda.Event
        self.ours = [event(disable_timing=True, interprocess=self.apart) for _ in range(2)]
        handles = self.gathered(
            "share events",
            lambda: [
                [e.ptr, self.runtime.ipcGetEventHandle(e.ptr).hex() if self.apart else ""] for e in self.ours
            ],
        )
        self.theirs: list[list[int]] = [[], []]  # of each turn: the events of the other ranks
        self.events_opened: list[int] = []
        self.gathered("open the others' events", lambda: self.open_events(handles))

    def gathered(self, what: str, body: Callable[[], Any]) -> list[Any]:
        """The JSON-able `body()` of every rank. Raises Unreachable on all of them where CUDA refuses it to one."""
        try:
            said = [body(), None]
        except self.runtime.CUDARuntimeError as error:
            said = [None, str(error)]
        everyone = told(self.comm, said)
        for rank, (_, error) in enumerate(everyone):
            if error is not None:
                raise Unreachable(f"rank {rank} cannot {what} ({error})")
        return [value for value, _ in everyone]

    def enable(self) -> None:
        """Reach the other GPUs of this process; those of other processes are when a handle is opened."""
        for kin, (_, number) in zip(self.kin, self.places, strict=True):
            if kin and number != self.number:
                try:
                    self.runtime.deviceEnablePeerAccess(number)
                except self.runtime.CUDARuntimeError as error:
                    if error.status != ALREADY_ENABLED:
                        raise

    def open_events(self, handles: Sequence[Sequence[Any]]) -> None:
        for rank, events in enumerate(handles):
            for turn, (event, handle) in enumerate(events):
                if not self.kin[rank]:
                    event = self.runtime.ipcOpenEventHandle(bytes.fromhex(handle))
                    self.events_opened.append(event)
                if rank != self.comm.rank:
                    self.theirs[turn].append(event)

    # Memory

    def share(self, n: int, dtype: np.dtype) -> list[Array]:
        """A vector of every rank in rank order, `n` elements of ours. Raises Unreachable."""

        def export() -> list[Any]:
            if not n:
                return [0, 0, ""]
            address = self.take(n * dtype.itemsize)
            return [n, address, self.runtime.ipcGetMemHandle(address).hex() if self.apart else ""]

        shared = self.gathered(f"share {n * dtype.itemsize:,} bytes of its GPU's memory", export)
        vectors: list[Array] = []

        def open_all() -> None:
            for rank, (length, address, handle) in enumerate(shared):
                if not length:
                    vectors.append(self.xp.empty(0, dtype))
                    continue
                if not self.kin[rank]:
                    address = self.runtime.ipcOpenMemHandle(bytes.fromhex(handle))
                    self.opened.append(address)
                part = self.xp.cuda.UnownedMemory(address, length * dtype.itemsize, self, self.number)
                vectors.append(self.xp.ndarray(length, dtype, self.xp.cuda.MemoryPointer(part, 0)))

        self.gathered("open the others' memory", open_all)
        return vectors

    def take(self, nbytes: int) -> int:
        """Where memory of its own begins: not of CuPy's pool, whose limit comes down by as much."""
        self.memory.append(self.xp.cuda.Memory(-(-nbytes // BLOCK) * BLOCK))
        pool = self.xp.get_default_memory_pool()
        if limit := pool.get_limit():
            size = min(self.memory[-1].size, limit - 1)  # a limit of 0 would be none
            pool.set_limit(size=limit - size)
            self.of_the_limit += size
        return self.memory[-1].ptr

    def close(self) -> None:
        """Close what is open of others, which then may free it; no rank touches it any more."""
        self.xp.cuda.Device().synchronize()
        for address in self.opened:
            self.runtime.ipcCloseMemHandle(address)
        for event in self.events_opened:
            self.runtime.eventDestroy(event)
        self.comm.Barrier()
        if self.of_the_limit:
            pool = self.xp.get_default_memory_pool()
            pool.set_limit(size=pool.get_limit() + self.of_the_limit)
        self.memory, self.kin, self.of_the_limit = [], [], 0

    # Fences

    def record(self) -> Callable[[], None]:
        """Mark what is done so far on the current stream; what makes that stream wait for what the others marked.

        That is to be called when all ranks are known to have marked.
        """
        turn, stream = self.fences % 2, self.xp.cuda.get_current_stream()
        self.fences += 1
        self.ours[turn].record(stream)

        def wait() -> None:
            for event in self.theirs[turn]:
                self.runtime.streamWaitEvent(stream.ptr, event)

        return wait
