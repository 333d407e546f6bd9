"""Streams as a GPU has them: what is started on one is done when it is waited for, and not before.

All work is done at once here; what is kept is *when it may be looked at*. Memory remembers the last work on it (stream,
number); a stream knows how far it has been waited for by the host (`done`) and by other streams (`seen`). Copies to the
host deliver garbage until they are waited for; host memory that is being copied to the device must stay as it is.
"""

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np


class Race(Exception):
    """Something was read, sent or overwritten before the work on it was done."""


class Memory:
    """An allocation: which work was done on it last, by whoever wrote to it and by those who have read it since."""

    def __init__(self) -> None:
        self.uses: dict[
            int, tuple[Stream, int, bool]
        ] = {}  # by stream: the last work there, whether it wrote

    def used(self, stream: "Stream", writes: bool) -> None:
        """By the work that this stream has just been given. Raises Race."""
        before = self.uses.pop(stream.uid, None)
        for other, number, wrote in self.uses.values():
            if (writes or wrote) and number > max(other.done, stream.seen.get(other.uid, 0)):
                raise Race(
                    "work on memory that another stream still works on: record an event there, and wait for it"
                )
        if writes:
            self.uses.clear()
        self.uses[stream.uid] = stream, stream.issued, writes or (before is not None and before[2])

    def part(self, host: np.ndarray) -> "Memory":
        """Of this memory, what this array looks at: all of it counts as one."""
        return self

    def ready_for_host(self) -> bool:
        return all(number <= stream.done for stream, number, _ in self.uses.values())


class Stream:
    """A queue of work."""

    null: "Stream"

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False):
        self.issued = self.done = 0
        self.uid = os.getpid() << 32 | next(_numbers)  # unlike that of any stream of any process
        self.seen: dict[int, int] = {}  # by stream, of what was waited for
        self.recorded: list[Callable[[], object]] | None = None  # what is captured, to be done by a graph
        streams[self.ptr] = self
        self.copies: list[
            tuple[int, np.ndarray, np.ndarray, bool]
        ] = []  # (number, host memory, its bytes, to host)

    def work(self, *memories: Memory, reads: tuple[Memory, ...] = ()) -> int:
        """One more piece of work, on this memory, of which it only reads `reads`. Raises Race."""
        if self.recorded is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: what the stand-in cannot capture")
        self.issued += 1
        for memory in memories:
            memory.used(self, True)
        for memory in reads:
            memory.used(self, False)
        return self.issued

    def synchronize(self) -> None:
        self.reach(self.issued)

    def reach(self, number: int) -> None:
        """The host has waited for this piece of work."""
        if self.recorded is not None or get_current_stream().recorded is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: waiting for a stream that is captured")
        with _lock:
            self.done = max(self.done, number)
            due = [entry for entry in self.copies if entry[0] <= self.done]
            self.copies = [entry for entry in self.copies if entry[0] > self.done]
            for entry in due:
                _, host, content, to_host = entry
                if to_host:
                    host[...] = content
                elif not np.array_equal(host, content):
                    raise Race("host memory was changed while it was being copied to the device")
        from cupy.ipc import regions

        for region in list(regions.values()):
            region.done(self)

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        self.know(event.known)

    def know(self, known: list[tuple[int, int]]) -> None:
        """Work that comes after this is done after all of that."""
        for other, seen in known:
            self.seen[other] = max(self.seen.get(other, 0), seen)

    def begin_capture(self, mode: int | None = None) -> None:
        """From now on nothing is done on this stream: it becomes a graph."""
        if self is Stream.null or self.recorded is not None:
            raise RuntimeError(
                "cudaErrorStreamCaptureUnsupported: the default stream, or one that is captured"
            )
        self.recorded = []

    def end_capture(self) -> "Graph":
        if self.recorded is None:
            raise RuntimeError("cudaErrorIllegalState: this stream is not captured")
        recorded, self.recorded = self.recorded, None
        return Graph(recorded)

    def is_capturing(self) -> bool:
        return self.recorded is not None

    @property
    def ptr(self) -> int:
        return id(self)

    def use(self) -> "Stream":
        _state.stream = self
        return self

    def __enter__(self) -> "Stream":
        _state.__dict__.setdefault("stack", []).append(get_current_stream())
        return self.use()

    def __exit__(self, *_) -> None:
        _state.stream = _state.stack.pop()


class Graph:
    """Captured work, which is done anew at each launch, on the memory that it had when it was captured."""

    def __init__(self, work: "list[Callable[[], object]]"):
        self.work = work

    def launch(self, stream: Stream | None = None) -> None:
        with stream or get_current_stream() as on:
            if on.recorded is not None:
                raise RuntimeError("a graph inside a graph: not here")
            for one in self.work:
                one()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.place: tuple[Stream, int] = (Stream.null, 0)
        self.known: list[tuple[int, int]] = []
        self.shared = None
        if interprocess:
            from cupy.ipc import SharedEvent

            if not disable_timing:
                raise ValueError("Timing must be disabled for interprocess events")
            self.shared = SharedEvent()
        events[self.ptr] = self

    @property
    def ptr(self) -> int:
        return id(self)

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or get_current_stream()
        self.place = stream, stream.issued
        self.known = [*stream.seen.copy().items(), (stream.uid, stream.issued)]
        if self.shared:
            self.shared.record(stream)

    @property
    def done(self) -> bool:
        """Asked until it is: the device has had its time then."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        stream, number = self.place
        stream.reach(number)


streams: "weakref.WeakValueDictionary[int, Stream]" = weakref.WeakValueDictionary()
events: "weakref.WeakValueDictionary[int, Event]" = weakref.WeakValueDictionary()
_numbers = itertools.count(1)
Stream.null = Stream(null=True)
_lock = threading.RLock()  # ranks may be threads
_state = threading.local()


def get_current_stream() -> Stream:
    with contextlib.suppress(AttributeError):
        return _state.stream
    return Stream.null
