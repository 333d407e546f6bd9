"""Arrays on a device, sent and received through page-locked memory of the host, with whatever MPI there is.

    send       the stream that computes ─ event → copy stream: device → host  ─ done → message
    receive    message ─ there → copy stream: host → device  ─ event → the stream that computes waits

Nobody waits but for what it needs: copies are made on a stream of their own while the device computes on, the device's
work that comes after a `Wait` is held back by an event on the device, and the host asks whether a copy is done in the
same polls in which it asks for messages. Nothing is sent before the work on it is done.
Host memory is taken from a pool, so that several messages are under way at once, and taken again when both copy and
message are done.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm.communicator import Communicator
from mpidp.comm.memory import Window
from mpidp.comm.on_device import DeviceCommunicator, followed
from mpidp.comm.pending import Pending

PIECE = 4 << 20  # bytes of a message that are copied and sent together
SMALLEST = 4096  # bytes of a piece of the pool; the others are powers of two above it


class Pool:
    """Page-locked host memory, in pieces that are used again. One to a device and rank."""

    def __init__(self, xp: Any):
        self.xp = xp
        self.free: dict[int, list[np.ndarray]] = defaultdict(list)
        self.copies = xp.cuda.Stream(non_blocking=True)
        self.arriving: deque[tuple[Any, np.ndarray]] = deque()  # (event, piece that is copied to the device)
        self.leaving: deque[Sending] = (
            deque()
        )  # whose copies are on their way to the host, of all communicators

    def take(self, nbytes: int) -> np.ndarray:
        """At least so many bytes that nobody uses."""
        while self.arriving and self.arriving[0][0].done:
            self.give(self.arriving.popleft()[1])
        size = max(SMALLEST, 1 << (nbytes - 1).bit_length()) if nbytes else SMALLEST
        if self.free[size]:
            return self.free[size].pop()
        return np.frombuffer(self.xp.cuda.alloc_pinned_memory(size), np.uint8, size)

    def room(self, array: Array) -> tuple[np.ndarray, np.ndarray]:
        """A piece, and what of it has the shape and type of the array."""
        require_contiguous(array)
        piece = self.take(array.nbytes)
        return piece, piece[: array.nbytes].view(array.dtype).reshape(array.shape)

    def give(self, piece: np.ndarray) -> None:
        self.free[piece.size].append(piece)

    def to_host(self, array: Array) -> tuple[Any, np.ndarray, np.ndarray]:
        """Start to copy a contiguous device array, as the work on it so far leaves it: (event, piece, copy)."""
        piece, copy = self.room(array)
        self.copies.wait_event(self.xp.cuda.get_current_stream().record())
        array.get(stream=self.copies, out=copy, blocking=False)
        return self.copies.record(), piece, copy

    def start_due(self) -> None:
        """Start what the device has done with by now, in the order in which it was given."""
        while self.leaving and self.leaving[0].event.done:
            self.leaving.popleft().start()

    def to_device(self, piece: np.ndarray, copy: np.ndarray, array: Array) -> None:
        """Start to copy to the device, before whatever the current stream does next; the piece is given back."""
        stream = self.xp.cuda.get_current_stream()
        self.copies.wait_event(stream.record())  # whoever still reads the array is done first
        array.set(copy, stream=self.copies)
        event = self.copies.record()
        stream.wait_event(event)
        self.arriving.append((event, piece))


class StagedCommunicator(DeviceCommunicator):
    """The communicator `inner` for device arrays too; arrays on the host go straight to it.

    A long message travels in pieces, so that one is copied while another is sent; it is counted as one.
    """

    mode = "staged"
    way = "messages staged through page-locked host memory"

    def __init__(self, inner: Communicator, xp: Any, pool: Pool | None = None):
        super().__init__(inner, xp)
        self.pool = pool or Pool(xp)
        self.chores = inner.chores
        if self.pool.start_due not in self.chores:  # whoever receives it must not wait until we wait for that
            self.chores.append(self.pool.start_due)

    def Isend(self, buffer: Array, dest: int, tag: int = 0) -> Pending:
        parts = pieces(buffer)
        if isinstance(buffer, np.ndarray):
            tests = [test for part in parts for test in self.inner.Isend(part, dest, tag).take()]
        else:
            tests = [
                Sending(self, part, lambda copy: self.inner.Isend(copy, dest, tag)).test for part in parts
            ]
        self.traffic.messages -= len(parts) - 1
        what = "rank {} to take a message of {} bytes"
        return Pending(tests, what, dest, buffer.nbytes, self.inner.unfinished)

    def Irecv(self, buffer: Array, source: int, tag: int = 0) -> Pending:
        if isinstance(buffer, np.ndarray):
            landings = [self.inner.Irecv(part, source, tag) for part in pieces(buffer)]
        else:
            receive = self.inner.Irecv
            landings = [
                self.landing(part, lambda copy: receive(copy, source, tag)) for part in pieces(buffer)
            ]
        tests = [test for landing in landings for test in landing.take()]
        what = "a message from rank {} of {} bytes"
        return Pending(tests, what, source, buffer.nbytes, self.inner.unfinished)

    def landing(self, buffer: Array, start: Callable[[np.ndarray], Pending]) -> Pending:
        """What `start` receives into host memory, then copied into `buffer`."""
        piece, copy = self.pool.room(buffer)
        self.traffic.staged_bytes += buffer.nbytes
        return followed(start(copy), lambda: self.pool.to_device(piece, copy, buffer))

    def Test(self, *pending: Pending) -> bool:
        """As ever; and whatever the device has done with is started, in the order of calls, whoever is asked for."""
        self.pool.start_due()
        return super().Test(*pending)

    # The library's collectives, each on a copy of the whole buffer

    def Iallreduce(self, buffer: Array) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Iallreduce(buffer)
        return self.both_ways(buffer, self.inner.Iallreduce, buffer)

    def Ireduce_scatter(self, buffer: Array, receive: Array, counts: Sequence[int]) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Ireduce_scatter(buffer, receive, counts)
        room = self.pool.room(receive)

        def start(copy: np.ndarray) -> Pending:
            return self.inner.Ireduce_scatter(copy, room[1], counts)

        return self.both_ways(buffer, start, receive, room)

    def Iallgather(self, buffer: Array, counts: Sequence[int]) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Iallgather(buffer, counts)
        return self.both_ways(buffer, lambda copy: self.inner.Iallgather(copy, counts), buffer)

    def both_ways(
        self,
        source: Array,
        start: Callable[[np.ndarray], Pending],
        target: Array,
        result: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Pending:
        """`start` on a copy of `source`, whose `result` (piece and array; default: the copy) then goes to `target`.

        All ranks must start these in one order: the host waits here for the copy, and not in a poll.
        """
        event, piece, copy = self.pool.to_host(source)
        event.synchronize()
        self.traffic.staged_bytes += source.nbytes + target.nbytes

        def landed() -> None:
            self.pool.to_device(*(result or (piece, copy)), target)
            if result:
                self.pool.give(piece)

        return followed(start(copy), landed)

    def Allocate_window(self, n: int, dtype: Any) -> Window:
        return StagedWindow(self, self.inner.Allocate_window(n, dtype))

    def twin(self, inner: Communicator) -> DeviceCommunicator:
        return StagedCommunicator(inner, self.xp, self.pool)


class Later:
    """An operation that is started when the device has come to `event`, after those that were given before it."""

    def __init__(self, comm: StagedCommunicator, event: Any, begin: Callable[[], Pending]):
        self.comm, self.event, self.begin = comm, event, begin
        self.message: Pending | None = None
        comm.pool.leaving.append(self)

    def start(self) -> None:
        self.message = self.begin()

    def test(self) -> bool:
        return self.message is not None and self.comm.inner.Test(self.message)


class Sending(Later):
    """A device array on its way: to the host, then as a message."""

    def __init__(self, comm: StagedCommunicator, buffer: Array, send: Callable[[np.ndarray], Pending]):
        event, self.piece, copy = comm.pool.to_host(buffer)
        super().__init__(comm, event, lambda: send(copy))
        comm.traffic.staged_bytes += buffer.nbytes

    def test(self) -> bool:
        done = super().test()
        if done:
            self.comm.pool.give(self.piece)
        return done


class StagedWindow(Window):
    """A window in host memory, read and added to from device arrays."""

    def __init__(self, comm: StagedCommunicator, inner: Window):
        super().__init__(comm)
        self.inner = inner
        self.staged = comm

    def Accumulate(self, buffer: Array, target: int) -> Pending:
        return self.out(buffer, lambda copy: self.inner.Accumulate(copy, target))

    def Put(self, buffer: Array, target: int) -> Pending:
        return self.out(buffer, lambda copy: self.inner.Put(copy, target))

    def out(self, buffer: Array, start: Callable[[np.ndarray], Pending]) -> Pending:
        if isinstance(buffer, np.ndarray):
            return start(buffer)
        sending = Sending(self.staged, buffer, start)
        return Pending([sending.test], "a window to take a copy of {1} bytes", 0, buffer.nbytes)

    def Get(self, buffer: Array, target: int) -> Pending:
        if isinstance(buffer, np.ndarray):
            return self.inner.Get(buffer, target)
        return self.staged.landing(buffer, lambda copy: self.inner.Get(copy, target))

    def Progress(self) -> None:
        self.inner.Progress()

    def Free(self) -> None:
        self.inner.Free()


def pieces(buffer: Array) -> list[Array]:
    """A contiguous array as flat pieces in which it is sent: one even of no elements."""
    require_contiguous(buffer)
    flat, step = buffer.reshape(-1), max(PIECE // buffer.itemsize, 1)
    return [flat[i : i + step] for i in range(0, max(flat.size, 1), step)]


def require_contiguous(buffer: Array) -> None:
    if not buffer.flags.c_contiguous:
        raise ValueError("a message buffer must be contiguous")
