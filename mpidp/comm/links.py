"""Messages between all ranks of a job beside MPI, sent and received by a thread of each rank that sleeps in `select`.

Messages are lines of JSON, `[kind, value]`; an empty line is a beat, a sign of life. An end of file without a goodbye
is a rank that is dead. Handlers are called in the thread, one at a time, and must be short.
"""

import contextlib
import heapq
import itertools
import json
import os
import selectors
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mpidp.comm.mesh import Peer

BEAT = 1.0
"""Seconds between two signs of life to each of up to 32 peers: with more of them, in proportion."""

SILENT = 3.5  # beats that a living rank does not leave out

READ_AT_ONCE = 1 << 16  # bytes

Handler = Callable[[int, Any], None]


class Links:
    """This rank's connections to all other ranks of the job, by their ranks in it, whatever communicator is at hand."""

    def __init__(self, rank: int, peers: list[Peer]):
        self.rank, self.size = rank, len(peers) + 1
        self.peers = {peer.rank: peer for peer in peers}
        self.host, self.pid = socket.gethostname(), os.getpid()
        self.lost: dict[int, str] = {}  # ranks known dead, and how each of them ended
        self._lock = threading.Lock()  # over what is still to be sent, the handlers and the timers
        self._handlers: dict[str, Handler] = {}
        self._unheard: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        self._when_lost: list[Callable[[int], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._beat = BEAT * max(1.0, self.size / 32)
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self.watch(self._woken, self._wake)
        for peer in peers:
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
        self.thread = threading.Thread(target=self._run, name="control", daemon=True)
        self.later(self._beat, self._send_beats)

    # From any thread

    def tell(self, kind: str, value: Any = None, to: int | Iterable[int] | None = None) -> None:
        """Send a JSON-able value to a rank, to several, or (None) to all others; from any thread, and without waiting.

        Those who are lost or have left are passed over; what this rank tells itself is handled at once.
        """
        ranks = self.others() if to is None else [to] if isinstance(to, int) else list(to)
        text = json.dumps([kind, value]).encode() + b"\n"
        for rank in ranks:
            if rank == self.rank:
                self.later(0, partial(self._handle, rank, kind, value))
            else:
                self._send(self.peers[rank], text)

    def on(self, kind: str, handler: Handler) -> None:
        """Have `handler(rank, value)` called, in the control thread, for each message of this kind: it must be short.

        Messages that came before are handed over now.
        """
        with self._lock:
            self._handlers[kind] = handler
            unheard = self._unheard.pop(kind, [])
        for rank, value in unheard:
            self.later(0, partial(handler, rank, value))

    def on_lost(self, handler: Callable[[int], None]) -> None:
        """Have `handler(rank)` called, in the control thread, for each rank that is lost from now on."""
        self._when_lost.append(handler)

    def others(self) -> list[int]:
        """The other ranks that are there, as far as is known."""
        return [rank for rank, peer in self.peers.items() if rank not in self.lost and not peer.left]

    def alive(self) -> list[int]:
        """All ranks that are there, this one included, in order."""
        return sorted([self.rank, *self.others()])

    def silent(self, seconds: float | None = None) -> dict[int, float]:
        """Ranks of whom nothing has been heard for longer than that (default: a few beats): stopped, or cut off."""
        now, limit = time.monotonic(), SILENT * self._beat if seconds is None else seconds
        return {
            rank: now - self.peers[rank].heard
            for rank in self.others()
            if now - self.peers[rank].heard > limit
        }

    def name(self, rank: int) -> str:
        """A rank with its host and process, for a message."""
        if rank == self.rank:
            return f"rank {rank} ({self.host}, pid {self.pid})"
        return str(self.peers[rank])

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have `action()` called in the control thread after so many seconds."""
        with self._lock:
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), action))
        self._wake_up()

    def watch(self, readable: socket.socket, action: Callable[[], None]) -> None:
        """Have `action()` called whenever there is something to read."""
        self._selector.register(readable, selectors.EVENT_READ, action)

    def drop(self, rank: int, how: str) -> None:
        """Have nothing to do with a rank any more, as if it had ended: in the control thread."""
        if rank in self.others():
            self._lose(self.peers[rank], how)

    def close(self) -> None:
        """Say goodbye to all others and end the thread."""
        self.tell("goodbye")
        self._closed = True
        self._wake_up()
        if threading.get_ident() != self.thread.ident:
            self.thread.join(2.0)

    # The thread

    def _run(self) -> None:
        while not self._closed:
            for key, events in self._selector.select(self._until_next()):
                if not isinstance(key.data, Peer):
                    key.data()
                elif events & selectors.EVENT_READ:
                    self._receive(key.data)
                elif key.data.rank not in self.lost:
                    self._flush(key.data)
            while self._until_next() == 0:
                with self._lock:
                    _, _, action = heapq.heappop(self._timers)
                action()
        deadline = time.monotonic() + 1.0  # for the last words of this rank
        for peer in self.peers.values():
            while peer.out and not peer.left and peer.rank not in self.lost and time.monotonic() < deadline:
                self._flush(peer)
                time.sleep(1e-3)
            peer.socket.close()

    def _until_next(self) -> float | None:
        """Seconds until the next thing to do by the clock."""
        with self._lock:
            return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _send_beats(self) -> None:
        for rank in self.others():
            if not self.peers[rank].out:
                self._send(self.peers[rank], b"\n")
        self.later(self._beat, self._send_beats)

    def _send(self, peer: Peer, text: bytes) -> None:
        with self._lock:
            peer.out += text
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        """Hand over what the connection takes now; the thread goes on when it takes more."""
        with self._lock:
            had = len(peer.out)
            with contextlib.suppress(BlockingIOError, OSError):  # what is wrong is seen in reading
                del peer.out[: peer.socket.send(peer.out) if peer.out else 0]
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.out else 0)
            if had and not self._closed and not peer.left and peer.rank not in self.lost:
                self._selector.modify(peer.socket, wanted, peer)

    def _receive(self, peer: Peer) -> None:
        try:
            text = peer.socket.recv(READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(peer, f"is out of reach ({error.strerror})")
            return
        if not text:
            self._lose(peer, peer.ending)
            return
        peer.heard = time.monotonic()
        *lines, rest = (peer.read + text).split(b"\n")
        peer.read = bytearray(rest)
        for line in filter(None, lines):
            with contextlib.suppress(ValueError):  # what a rank was about to say when it ended
                kind, value = json.loads(line)
                self._handle(peer.rank, kind, value)

    def _handle(self, rank: int, kind: str, value: Any) -> None:
        if kind == "goodbye":
            self.peers[rank].left = True
            return
        if kind == "ended":  # its guard's word
            self.peers[rank].ending = value
            return
        with self._lock:
            handler = self._handlers.get(kind)
            if handler is None:
                self._unheard[kind].append((rank, value))
        if handler is not None:
            handler(rank, value)

    def _lose(self, peer: Peer, how: str) -> None:
        """That connection is at its end."""
        with self._lock:
            self._selector.unregister(peer.socket)
            peer.socket.close()
            peer.out.clear()
            if peer.left:
                return
            self.lost[peer.rank] = f"{peer} {how}"
        for handler in self._when_lost:
            handler(peer.rank)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(READ_AT_ONCE)

    def _wake_up(self) -> None:
        if threading.get_ident() != self.thread.ident:
            with contextlib.suppress(BlockingIOError):  # it is awake
                self._waker.send(b"!")
