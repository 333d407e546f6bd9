"""Stopping by a signal: all ranks go on to one step that none of them has begun, save there, and end.

SIGINT and SIGTERM may come to one rank, to several or to all, through the launcher or not. Each rank's control thread
hears of its own at once (`signal.set_wakeup_fd`), whatever its main thread does, and asks the first rank. That has all
ranks hold their main threads before the next step and say which step they have begun; the last step S of the run is the
one behind the highest of them, or the last that was to be made anyway. Whoever is held then goes on to S. So S is known
to every rank before it begins it: strategies whose ranks run apart come together there (`Step.meeting`).

A second signal ends all ranks at once, as does the first where no rank has begun a step yet. Where a rank is past its
last step the run is about to end, and ends.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidp.comm.endings import say
from mpidp.errors import Interrupted

if TYPE_CHECKING:
    from mpidp.comm.control import Control

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SAME = 1.0
"""Seconds in which further signals are still the first one: a launcher's and a terminal's come to a process in several
ways."""

NAP = 1e-3  # seconds


class Stop:
    """Whether, and where, a run ends before its last step; of one rank, alone or with others through `control`."""

    def __init__(self, control: "Control | None" = None):
        self.control = control
        self.at: int | None = None  # the last step
        self.signal = 0  # that asked for it
        self.begun = 0  # the step that the main thread is in; one more than there are where it is past them
        self.last = 0  # step that was to be made
        self.held = False
        self.agreed = False
        self.asked_at: float | None = None
        self.begun_by: dict[int, list[int]] = {}  # rank -> the step it has begun, and its last
        self.lock = threading.Lock()
        if control:
            control.on("stop", self.asked)
            control.on("hold", self.hold)
            control.on("begun", self.heard)
            control.on("stop at", self.agree)
            control.on_lost(self.one_is_lost)

    # The main thread

    def begin(self, t: int, last: int) -> bool:
        """Whether step t, of so many, is still to be made; where ranks are about to agree on that, when they have."""
        self.last = last
        while True:
            with self.lock:
                if not self.held or self.agreed:
                    if self.at is not None and t > self.at:
                        return False
                    self.begun = t
                    return t <= last
            if self.control:
                self.control.check()
            time.sleep(NAP)

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Inside, the signals ask for a stop; only where this is the main thread, which alone may say so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handler = (lambda *_: None) if self.control else self.alone
        before = {number: signal.signal(number, handler) for number in SIGNALS}
        if self.control:
            woken, waker = socket.socketpair()
            for end in (woken, waker):
                end.setblocking(False)
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            self.control.watch(woken, lambda: self.signalled(woken))
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def alone(self, number: int, _: Any) -> None:
        """The handler of one rank alone: in the main thread, between two of its instructions."""
        now = time.monotonic()
        if self.asked_at is not None and now - self.asked_at < SAME:
            return
        if self.asked_at is not None or not self.begun:
            raise Interrupted(number)
        self.asked_at, self.signal = now, number
        self.conclude({0: [self.begun, self.last]})

    # The control thread

    def signalled(self, woken: socket.socket) -> None:
        for number in woken.recv(4096):
            if number in SIGNALS:
                self.control.tell("stop", number, to=self.control.alive()[0])

    def asked(self, rank: int, number: int) -> None:
        """A signal has come to that rank; called on the first of them all."""
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at, self.signal = now, number
            self.agreement()
        elif now - self.asked_at > SAME:
            self.at_once(number)

    def agreement(self) -> None:
        self.begun_by = {}
        self.control.tell("hold", self.signal, to=self.control.alive())

    def hold(self, rank: int, number: int) -> None:
        with self.lock:
            self.held, self.signal = True, number
        self.control.tell("begun", [self.begun, self.last], to=rank)

    def heard(self, rank: int, begun: list[int]) -> None:
        self.begun_by[rank] = begun
        if set(self.control.alive()) <= self.begun_by.keys() and not self.agreed:
            if any(begun for begun, _ in self.begun_by.values()):
                self.conclude(self.begun_by)
            else:
                self.at_once(self.signal)

    def conclude(self, begun_by: dict[int, list[int]]) -> None:
        """S, from the steps that all ranks have begun."""
        begun, last = (max(column) for column in zip(*begun_by.values(), strict=True))
        at = None if begun > last else min(begun + 1, last)
        name = signal.Signals(self.signal).name
        where = (
            "the run is at its end, which it comes to"
            if at is None
            else f"stops after step {at} and saves there"
        )
        say(f"{name}: {where}; a second signal ends it at once")
        if self.control:
            self.control.tell("stop at", at, to=self.control.alive())
        else:
            self.at = at

    def agree(self, rank: int, at: int | None) -> None:
        with self.lock:
            self.at, self.agreed = at, True

    def at_once(self, number: int) -> None:
        self.control.end(f"error: {Interrupted(number)}", 128 + number)

    def one_is_lost(self, rank: int) -> None:
        """The others agree without it, should they not have yet; under its successor where it was the first."""
        if self.held and not self.agreed and self.control.alive()[0] == self.control.rank:
            self.asked_at = self.asked_at or time.monotonic()
            self.agreement()
