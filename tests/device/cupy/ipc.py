"""Device memory that other processes map, and events that they wait for: CUDA's inter-process handles.

An allocation is a file without a name, which others open by /proc; its first bytes say who used which part of it last,
so that work of one process on memory that another still works on is a Race here too.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import threading
import weakref
from contextlib import contextmanager

from cupy.streams import Race, Stream, streams

PLACES = 400  # uses of one allocation that are remembered
USE = struct.Struct("5Q")  # first byte, end, stream, number of its work, whether it wrote
HEAD = mmap.ALLOCATIONGRANULARITY * (-(-(8 + PLACES * USE.size) // mmap.ALLOCATIONGRANULARITY))
HANDLE = struct.Struct("QQQ40x")  # process, its file, bytes
EVENTS = 250  # streams that an event knows of
_threads = threading.RLock()


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def refused() -> None:
    """Where the variable says so, nothing of this is to be had, as in a virtual machine's part of a GPU."""
    if os.environ.get("MPIDP_STAND_IN_IPC") == "none":
        raise CUDARuntimeError(801, "cudaErrorNotSupported: operation not supported")


class Mapping:
    """A file without a name, mapped: of this process, or of another (`of`: its handle)."""

    def __init__(self, size: int, of: bytes | None = None):
        if of is None:
            self.fd = os.memfd_create("stand-in", 0)
            os.ftruncate(self.fd, size)
        else:
            process, fd, size = HANDLE.unpack(of)
            if process == os.getpid():
                raise CUDARuntimeError(201, "cudaErrorDeviceUninitialized: invalid device context")
            try:
                self.fd = os.open(f"/proc/{process}/fd/{fd}", os.O_RDWR)
            except OSError:
                raise CUDARuntimeError(
                    400, "cudaErrorInvalidResourceHandle: invalid resource handle"
                ) from None
        weakref.finalize(self, os.close, self.fd)
        self.size, self.map = size, mmap.mmap(self.fd, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def handle(self) -> bytes:
        return HANDLE.pack(os.getpid(), self.fd, self.size)

    @contextmanager
    def locked(self):
        with _threads:
            fcntl.lockf(self.fd, fcntl.LOCK_EX)  # among processes
            try:
                yield
            finally:
                fcntl.lockf(self.fd, fcntl.LOCK_UN)


class Region(Mapping):
    """An allocation that others can open."""

    def __init__(self, size: int, of: bytes | None = None):
        super().__init__(HEAD + size, of)
        self.ptr = self.address + HEAD
        regions[self.ptr] = self

    def uses(self) -> list[tuple]:
        (count,) = struct.unpack_from("Q", self.map)
        return [USE.unpack_from(self.map, 8 + i * USE.size) for i in range(count)]

    def keep(self, uses: list[tuple]) -> None:
        if len(uses) > PLACES:
            raise RuntimeError("too many parts of one allocation are in use")
        struct.pack_into("Q", self.map, 0, len(uses))
        for i, use in enumerate(uses):
            USE.pack_into(self.map, 8 + i * USE.size, *use)

    def use(self, lo: int, hi: int, stream: Stream, writes: bool) -> None:
        with self.locked():
            kept = []
            for use in self.uses():
                start, end, other, number, wrote = use
                ordered = other == stream.uid or number <= stream.seen.get(other, 0)
                if not ordered and start < hi and lo < end and (writes or wrote):
                    raise Race(
                        f"bytes {lo} to {hi} of memory of which process {other >> 32} still works on {start} to {end}: "
                        "wait for an event of its stream"
                    )
                if not (
                    lo <= start and end <= hi and ordered and (writes or (other == stream.uid and not wrote))
                ):
                    kept.append(use)
            self.keep([*kept, (lo, hi, stream.uid, stream.issued, int(writes))])

    def done(self, stream: Stream) -> None:
        """The host has waited for this stream."""
        with self.locked():
            self.keep([use for use in self.uses() if use[2] != stream.uid or use[3] > stream.done])


regions: "weakref.WeakValueDictionary[int, Region]" = weakref.WeakValueDictionary()


class Part:
    """What `streams.Memory` is, for a part of an allocation that others can open."""

    def __init__(self, region: Region, lo: int = 0, hi: int = 0):
        self.region, self.lo, self.hi = region, lo, hi

    def part(self, host) -> "Part":
        lo = host.ctypes.data - self.region.ptr
        return Part(self.region, lo, lo + host.nbytes)

    def used(self, stream: Stream, writes: bool) -> None:
        if self.lo < self.hi:
            self.region.use(self.lo, self.hi, stream, writes)

    def ready_for_host(self) -> bool:
        return not self.region.uses()


class Memory:
    """cupy.cuda.Memory: an allocation that is of no pool."""

    def __init__(self, size: int):
        self.region, self.size = Region(size), size
        self.ptr = self.region.ptr


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner, device_id: int = -1):
        self.region = regions[ptr]
        if size > self.region.size:
            raise ValueError("more than was allocated")
        self.ptr, self.size, self.owner = ptr, size, owner  # who closes what it has open sees to the region


class MemoryPointer:
    def __init__(self, mem, offset: int):
        self.mem, self.ptr = mem, mem.ptr + offset


class SharedEvent:
    """What an event that other processes wait for has recorded, in memory that they map."""

    def __init__(self, of: bytes | None = None):
        self.mapping = Mapping(mmap.ALLOCATIONGRANULARITY, of)
        self.ptr = id(self)

    def record(self, stream: Stream) -> None:
        known = [*stream.seen.copy().items(), (stream.uid, stream.issued)][-EVENTS:]
        struct.pack_into("Q", self.mapping.map, 0, len(known))
        for i, pair in enumerate(known):
            struct.pack_into("2Q", self.mapping.map, 8 + 16 * i, *pair)

    def known(self) -> list[tuple]:
        (count,) = struct.unpack_from("Q", self.mapping.map)
        return [struct.unpack_from("2Q", self.mapping.map, 8 + 16 * i) for i in range(count)]


opened: dict[int, SharedEvent | Region] = {}  # of other processes, by address


class Ipc:
    """The part of the runtime that deals in handles."""

    eventDisableTiming, eventInterprocess = 2, 4
    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def ipcGetMemHandle(ptr):
        refused()
        if ptr not in regions:
            raise CUDARuntimeError(1, "cudaErrorInvalidValue: invalid argument")
        return regions[ptr].handle()

    @staticmethod
    def ipcOpenMemHandle(handle, flags=1):
        refused()
        region = Region(0, handle)
        opened[region.ptr] = region
        return region.ptr

    @staticmethod
    def ipcCloseMemHandle(ptr):
        del opened[ptr]

    @staticmethod
    def ipcGetEventHandle(ptr):
        refused()
        from cupy.streams import events

        if events[ptr].shared is None:
            raise CUDARuntimeError(1, "cudaErrorInvalidValue: the event was not made for other processes")
        return events[ptr].shared.mapping.handle()

    @staticmethod
    def ipcOpenEventHandle(handle):
        refused()
        event = SharedEvent(handle)
        opened[event.ptr] = event
        return event.ptr

    @staticmethod
    def eventDestroy(ptr):
        del opened[ptr]

    @staticmethod
    def streamWaitEvent(stream, event, flags=0):
        from cupy.streams import events

        if event in opened:
            streams[stream].know(opened[event].known())
        else:
            streams[stream].wait_event(events[event])

    @staticmethod
    def deviceGetPCIBusId(device):
        return f"0000:{device:02x}:00.0"

    @staticmethod
    def deviceEnablePeerAccess(device):
        raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")
