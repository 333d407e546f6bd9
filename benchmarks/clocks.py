"""The time of a modelled network: every rank's clock, the links of their hosts, and whose turn it is.

Each rank is a thread, of which one runs at a time, always the one that is earliest. It goes on by what it computes and
by what it waits for, and a message is stamped with the time at which its last byte arrives. Before a rank sends, tests
or waits, all ranks whose clocks are behind its own go first; so messages are sent in the order of their times, links
are shared as they would be, and whatever depends on who is first (overlap, asynchronous servers) depends on the
modelled network. Nothing depends on the machine unless `cpu` is set.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.networks import Network
from mpidp.errors import RunError

POLL = 1e-6  # seconds of a test that finds nothing: whoever polls in a loop must come to a later time
Time = Callable[[], float | None]  # when something is complete; None as long as that is not known


class World:
    """The clocks of all ranks, the links of their hosts, and whose turn it is."""

    def __init__(self, hosts: Sequence[int], network: Network, cpu: bool = False):
        self.hosts, self.network, self.cpu = hosts, network, cpu
        self.clock = [0.0] * len(hosts)
        self.until: list[Time | None] = [None] * len(hosts)  # what each waits for; None: not there, or done
        self.arrived = 0
        self.turn: int | None = None
        self.lock = threading.Lock()
        self.wake = [threading.Condition(self.lock) for _ in hosts]
        self.failure: BaseException | None = None
        self.out: dict[int, float] = defaultdict(float)  # when each host's link has sent all it was given
        self.into: dict[int, float] = defaultdict(float)
        self.marks = [0.0] * len(hosts)
        # (context, source, dest, tag): messages sent, messages asked for, and those under way by their number
        self.sent: dict[tuple, int] = defaultdict(int)
        self.asked: dict[tuple, int] = defaultdict(int)
        self.mail: dict[tuple, tuple[float, np.ndarray]] = {}
        self.meetings: dict[tuple, list[float]] = defaultdict(list)

    def enter(self, rank: int) -> None:
        """Take part, from time 0 on; returns when it is this rank's turn."""
        with self.lock:
            self.until[rank] = lambda: 0.0
            self.arrived += 1
            if self.arrived == len(self.hosts):
                self.pass_on()
            self.wait_for_turn(rank)
        self.mark(rank)

    def leave(self, rank: int, error: BaseException | None = None) -> None:
        """Take part no more."""
        with self.lock:
            self.until[rank] = None
            if error is not None:
                self.fail(error)
            else:
                self.pass_on()

    def sleep(self, rank: int, until: Time) -> None:
        """Let the others go first, up to the time `until()`; then this rank's clock shows it, or what it showed."""
        self.charge(rank)
        with self.lock:
            self.until[rank] = until
            self.pass_on()
            self.wait_for_turn(rank)
            self.clock[rank] = max(self.clock[rank], until() or 0.0)
        self.mark(rank)

    def yield_(self, rank: int) -> None:
        """Let those go first whose clocks are behind this rank's."""
        self.sleep(rank, lambda: self.clock[rank])

    def pass_on(self) -> None:
        best, chosen = math.inf, None
        for rank, until in enumerate(self.until):
            when = None if until is None else until()
            if when is not None and max(when, self.clock[rank]) < best:
                best, chosen = max(when, self.clock[rank]), rank
        if chosen is None:
            waiting = [str(rank) for rank, until in enumerate(self.until) if until is not None]
            if waiting:
                self.fail(RunError(f"ranks {', '.join(waiting)} wait for messages that nobody sends"))
            return
        self.turn = chosen
        self.wake[chosen].notify()

    def wait_for_turn(self, rank: int) -> None:
        while self.turn != rank and self.failure is None:
            self.wake[rank].wait()
        if self.failure is not None:
            raise RunError("another rank of this simulation failed") from self.failure

    def fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        for condition in self.wake:
            condition.notify_all()

    def mark(self, rank: int) -> None:
        """From here on this rank computes on its own account."""
        if self.cpu:
            self.marks[rank] = time.thread_time()

    def charge(self, rank: int) -> None:
        """Up to here it did: its clock goes on by the processor's time, where that counts."""
        if self.cpu:
            self.clock[rank] += time.thread_time() - self.marks[rank]

    def transfer(self, source: int, dest: int, nbytes: int, now: float) -> tuple[float, float]:
        """(when a message sent now has left, when it is there)."""
        here, there = self.hosts[source], self.hosts[dest]
        if here == there:
            return now, now
        takes = nbytes * self.network.beta
        self.out[here] = max(now, self.out[here]) + takes
        self.into[there] = max(self.out[here] + self.network.alpha, self.into[there] + takes)
        return self.out[here], self.into[there]


class Due:
    """A test of one operation: done once the rank's clock has reached its time; `done` is called then."""

    def __init__(self, world: World, rank: int, when: Time, done: Callable[[], None] = lambda: None):
        self.world, self.rank, self.when, self.done = world, rank, when, done

    def __call__(self) -> bool:
        when = self.when()
        if when is None or when > self.world.clock[self.rank]:
            return False
        self.done()
        return True
