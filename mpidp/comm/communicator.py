"""A communicator: the few verbs of MPI that mpidp needs, counted, and with every wait polled (`comm/waiting.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm.memory import Memory
from mpidp.comm.objects import Objects
from mpidp.comm.pending import Pending, Unfinished
from mpidp.comm.stop import Stop
from mpidp.comm.waiting import SHORT_SPIN, Waiting

if TYPE_CHECKING:
    from mpidp.comm.control import Control
    from mpidp.comm.order import Order

LONGEST_MESSAGE = 1 << 30
"""Bytes: a longer buffer travels as several messages, since MPI 3 counts elements in 32 bits."""


@dataclass
class Traffic:
    """What one rank has sent through one communicator, and how long it waited there for others.

    seconds_waiting: of each wait what is beyond the first 100 µs, which messages themselves take.
    """

    messages: int = 0
    bytes: int = 0
    shared_bytes: int = 0  # read from or written into other ranks' memory, with no message
    staged_bytes: int = 0  # copied between a device and the host, in both directions
    seconds_waiting: float = 0.0

    def copy(self) -> "Traffic":
        return replace(self)

    def take(self, other: "Traffic") -> None:
        """Count here what `other` has counted, which begins anew."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
            setattr(other, f.name, f.default)

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))


class Communicator(Waiting, Objects, Memory):
    """Ranks 0 .. size-1 that exchange messages; buffers are contiguous arrays of any type, sent as bytes.

    A transport (real MPI, threads) supplies `_isend`, `_irecv`, `_ibarrier`, `_iallreduce`, `_ireduce_scatter`,
    `_iallgather`, `_iprobe`, `_split`, `_share`, `_unshare`, `_allocate_window`, `_hosts` and `Abort`, a quicker
    `_ifence` if it has one, `library`, and `spin`, the seconds for which a wait tests without sleeping.
    """

    spin = SHORT_SPIN
    library = ""  # whose messages these are: name and version
    xp: Any = np  # the array module in whose memory the vectors lie that are sent
    mode: str | None = None  # how they leave that memory, where it is not the host's: in a word
    about = ""  # and as a run speaks of it

    def __init__(self, rank: int, size: int, timeout: float = 600.0):
        self.rank = rank
        self.size = size
        self.timeout = timeout  # seconds that one wait may last
        self.traffic = Traffic()
        self.windows: dict[int, list[Array]] = {}  # address of our part -> every rank's part
        self.known_hosts: tuple[int, ...] | None = None
        self.neighbours: Communicator | None = None
        self.turn = 0  # of `Waitany`
        self.chores: list[
            Callable[[], None]
        ] = []  # done in every wait on it and on those that were split off it
        self.order: Order | None = None  # of the calls on it, where they are checked
        self.stop = Stop()  # of the run, where a signal asks for it
        self.control: Control | None = (
            None  # where ranks are processes: of the whole job, in all its communicators
        )
        self.unfinished: Unfinished | None = None  # as `control`

    # Verbs on buffers

    def Isend(self, buffer: Array, dest: int, tag: int = 0) -> Pending:
        """Start to send `buffer` to rank `dest`; it must stay as it is until `Wait`."""
        # MPICH was seen to crash in a send to a rank that is gone, on another host (UCX over TCP).
        if self.control:
            self.control.check()
        parts = pieces(buffer)
        self.traffic.messages += len(parts)
        self.traffic.bytes += buffer.nbytes
        tests = [self._isend(part, dest, tag) for part in parts]
        what = "rank {} to take a message of {} bytes"
        return Pending(tests, what, dest, buffer.nbytes, self.unfinished)

    def Irecv(self, buffer: Array, source: int, tag: int = 0) -> Pending:
        """Start to receive exactly `buffer.nbytes` bytes from rank `source` into `buffer`."""
        tests = [self._irecv(part, source, tag) for part in pieces(buffer)]
        return Pending(tests, "a message from rank {} of {} bytes", source, buffer.nbytes, self.unfinished)

    def Send(self, buffer: Array, dest: int, tag: int = 0) -> None:
        self.Wait(self.Isend(buffer, dest, tag))

    def Recv(self, buffer: Array, source: int, tag: int = 0) -> None:
        self.Wait(self.Irecv(buffer, source, tag))

    def Iprobe(self, source: int, tag: int = 0) -> Pending:
        """Look out for a message from rank `source`: complete when there is one, which stays to be received."""
        return Pending([self._iprobe(source, tag)], "a message from rank {}", source)

    def Barrier(self) -> None:
        """Return when every rank has called it."""
        self.Wait(self.Ibarrier())

    def Ibarrier(self) -> Pending:
        """Start to arrive at a barrier: complete when every rank has arrived."""
        return Pending([self._ibarrier()], "all ranks at a barrier")

    def Ifence(self) -> Pending:
        """Start to arrive at a barrier of ranks that share memory: then all see what each has written before it.

        Quicker than `Ibarrier`, and only after `Allocate_shared`.
        """
        return Pending([self._ifence()], "all ranks at a fence")

    # The library's collectives. All ranks must start them, and barriers, in the same order.

    def Iallreduce(self, buffer: Array) -> Pending:
        """Start buffer ← Σ over ranks, by the MPI library's own algorithm (the yardstick; ours are in `collectives/`).

        What the library sends cannot be seen from outside: one message of the buffer's bytes is counted.
        """
        self.traffic.messages += 1
        self.traffic.bytes += buffer.nbytes
        test = self._iallreduce(buffer)
        return Pending([test], "the MPI library's all-reduce", unfinished=self.unfinished)

    def Ireduce_scatter(self, buffer: Array, receive: Array, counts: Sequence[int]) -> Pending:
        """Start receive ← Σ over ranks of our part of buffer (rank r's has counts[r] elements), by the MPI library."""
        self.traffic.messages += 1
        self.traffic.bytes += buffer.nbytes
        test = self._ireduce_scatter(buffer, receive, counts)
        return Pending([test], "the MPI library's reduce-scatter", unfinished=self.unfinished)

    def Iallgather(self, buffer: Array, counts: Sequence[int]) -> Pending:
        """Start: every part of buffer ← that part as the rank that owns it has it, by the MPI library."""
        self.traffic.messages += 1
        self.traffic.bytes += counts[self.rank] * buffer.itemsize
        test = self._iallgather(buffer, counts)
        return Pending([test], "the MPI library's all-gather", unfinished=self.unfinished)

    # Which ranks could share memory. The first call of each is made by all ranks together.

    def hosts(self) -> tuple[int, ...]:
        """Every rank's host, numbered as they first appear in rank order: (0, 0, 1, 1)."""
        if self.known_hosts is None:
            found = self._hosts()
            order = list(dict.fromkeys(found))
            self.known_hosts = tuple(order.index(host) for host in found)
        return self.known_hosts

    def on_one_host(self) -> bool:
        """Whether all ranks could share memory."""
        return max(self.hosts()) == 0

    def local(self) -> "Communicator":
        """The ranks of this host, in rank order; what goes through it is counted as ours."""
        if self.neighbours is None:
            one = self.on_one_host()
            self.neighbours = self if one else self.Split(self.hosts()[self.rank], self.rank)
            self.neighbours.traffic = self.traffic
        return self.neighbours

    def Split(self, color: int, key: int) -> "Communicator":
        """A communicator of the ranks that gave the same `color`, ordered by `key`; traffic is counted anew."""
        split = self._split(color, key)
        split.timeout, split.spin = self.timeout, self.spin
        split.control, split.stop, split.chores = self.control, self.stop, self.chores
        split.unfinished = self.unfinished
        if self.unfinished is not None:
            self.unfinished.let_go()
        return split

    def at(self, step: int | None = None, phase: str | None = None) -> None:
        """Say where this rank is, for those who ask why it is late."""
        if self.control is not None:
            self.control.at(step, phase)

    def world_ranks(self) -> list[int]:
        """Every rank's number in the job, by which the control plane knows it."""
        return list(range(self.size))

    def Dup(self) -> "Communicator":
        """The same ranks in a message space of their own, with traffic counted anew."""
        twin = self.Split(0, self.rank)
        twin.known_hosts = self.known_hosts
        return twin

    # What a transport supplies

    def Abort(self, code: int) -> None:
        """End every rank of the job with this exit code, now."""
        raise SystemExit(code)

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Callable[[], bool]: ...

    def _irecv(self, raw: np.ndarray, source: int, tag: int) -> Callable[[], bool]: ...

    def _iprobe(self, source: int, tag: int) -> Callable[[], bool]: ...

    def _ibarrier(self) -> Callable[[], bool]: ...

    def _iallreduce(self, buffer: np.ndarray) -> Callable[[], bool]: ...

    def _ireduce_scatter(
        self, buffer: np.ndarray, receive: np.ndarray, counts: Sequence[int]
    ) -> Callable[[], bool]: ...

    def _iallgather(self, buffer: np.ndarray, counts: Sequence[int]) -> Callable[[], bool]: ...

    def _split(self, color: int, key: int) -> "Communicator": ...

    def _ifence(self) -> Callable[[], bool]:
        return self._ibarrier()

    def _hosts(self) -> Sequence[int]: ...


def pieces(buffer: np.ndarray) -> list[np.ndarray]:
    """The memory of a contiguous array as flat arrays of bytes, whatever its type (bfloat16 included): a message each.

    One even of no bytes.
    """
    if not buffer.flags.c_contiguous:
        raise ValueError("a message buffer must be contiguous")
    raw = buffer.reshape(-1).view(np.uint8)
    if raw.size <= LONGEST_MESSAGE:
        return [raw]
    return [raw[i : i + LONGEST_MESSAGE] for i in range(0, raw.size, LONGEST_MESSAGE)]
