"""Ranks that keep the time of a modelled network: one of them runs at a time, always the one that is earliest.

Each rank is a thread with a clock of its own. It goes on by what it computes and by what it waits for, and a message is
stamped with the time at which its last byte arrives. Before a rank sends, tests or waits, all ranks whose clocks are
behind its own go first; so messages are sent in the order of their times, links are shared as they would be, and
whatever depends on who is first (overlap, asynchronous servers) depends on the modelled network. Nothing depends on
the machine unless `cpu` is set.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.networks import Network
from mpidp.comm import Communicator, run_ranks
from mpidp.comm.communicator import Pending
from mpidp.comm.threads import Mailboxes, ThreadCommunicator
from mpidp.errors import RunError, UserError

POLL = (
    1e-6  # seconds that a test takes which finds nothing: whoever polls in a loop must come to a later time
)
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

    def transfer(self, source: int, dest: int, nbytes: int) -> tuple[float, float]:
        """(when a message sent now has left, when it is there)."""
        here, there, now = self.hosts[source], self.hosts[dest], self.clock[source]
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


class SimulatedCommunicator(ThreadCommunicator):
    """A communicator of such ranks. `members`: its ranks as the world numbers them."""

    def __init__(self, rank: int, size: int, mailboxes: Mailboxes, context: tuple, hosts: Sequence[int],
                 world: World, members: Sequence[int]):  # fmt: skip
        super().__init__(rank, size, mailboxes, context, hosts)
        self.world, self.members, self.me = world, members, members[rank]
        self.fences = 0

    def now(self) -> float:
        """This rank's clock, in seconds."""
        self.world.charge(self.me)
        self.world.mark(self.me)
        return self.world.clock[self.me]

    def compute(self, seconds: float) -> None:
        """Go on for so long without a word to the others."""
        self.world.charge(self.me)
        self.world.clock[self.me] += seconds
        self.world.mark(self.me)

    def Test(self, *pending: Pending) -> bool:
        self.world.yield_(self.me)
        done = super().Test(*pending)
        if not done:
            self.world.clock[self.me] += POLL
        self.world.mark(self.me)
        return done

    def Wait(self, *pending: Pending) -> None:
        tests = [test for one in pending for test in one.tests]

        def complete() -> float | None:
            times = [test.when() for test in tests]
            return None if None in times else max(times, default=0.0)

        self.world.charge(self.me)
        began = self.world.clock[self.me]
        self.world.mark(self.me)
        self.world.sleep(self.me, complete)
        self.traffic.seconds_waiting += self.world.clock[self.me] - began
        assert super().Test(*pending)
        self.world.mark(self.me)

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Due:
        world, key = self.world, (self.context, self.rank, dest, tag)
        world.yield_(self.me)
        left, there = world.transfer(self.me, self.members[dest], raw.nbytes)
        world.mail[(*key, world.sent[key])] = there, raw.copy()
        world.sent[key] += 1
        world.mark(self.me)
        return Due(world, self.me, lambda: left)

    def _irecv(self, raw: np.ndarray, source: int, tag: int) -> Due:
        world, key = self.world, (self.context, source, self.rank, tag)
        message = (*key, world.asked[key])
        world.asked[key] += 1

        def when() -> float | None:
            return world.mail[message][0] if message in world.mail else None

        def take() -> None:
            _, data = world.mail.pop(message)
            if data.size != raw.size:
                raise RunError(
                    f"rank {self.rank} expected {raw.size} bytes from rank {source}, not {data.size}"
                )
            raw[:] = data

        return Due(world, self.me, when, take)

    def _ibarrier(self) -> Due:
        """As a dissemination barrier: ⌈lg P⌉ messages one after the other."""
        self.barriers += 1
        one_host = len({self.world.hosts[member] for member in self.members}) == 1
        rounds = 0 if one_host else math.ceil(math.log2(self.size))
        return self.meet(("barrier", self.barriers), rounds * self.world.network.alpha)

    def _ifence(self) -> Due:
        self.fences += 1
        return self.meet(("fence", self.fences), 0.0)

    def meet(self, which: tuple, takes: float) -> Due:
        """Complete when all members have come, and `takes` seconds later."""
        self.world.yield_(self.me)
        times = self.world.meetings[(self.context, *which)]
        times.append(self.world.clock[self.me])
        self.world.mark(self.me)
        return Due(self.world, self.me, lambda: max(times) + takes if len(times) == self.size else None)

    def _gather(self, buffer: np.ndarray, finish: Any) -> Any:
        raise UserError("what the MPI library sends cannot be seen, and so not be modelled")

    def _split(self, color: int, key: int) -> Communicator:
        self.splits += 1
        everyone = enumerate(self.allgather([color, key]))
        ranks = [rank for _, rank in sorted((k, rank) for rank, (c, k) in everyone if c == color)]
        return SimulatedCommunicator(
            ranks.index(self.rank),
            len(ranks),
            self.mailboxes,
            (*self.context, self.splits, color),
            [self.placed[rank] for rank in ranks],
            self.world,
            [self.members[rank] for rank in ranks],
        )


def run_simulated(
    size: int,
    network: Network,
    body: Callable[[SimulatedCommunicator], Any],
    hosts: Sequence[int] | None = None,
    cpu: bool = False,
    timeout: float = 600.0,
) -> list[Any]:
    """Run `body(comm)` on `size` ranks that keep the time of `network`; their results in rank order.

    hosts: each rank's host; default: each has one of its own. cpu: what a rank computes counts, in the processor's
    time that it took here; else it takes no time but that of `comm.compute`.
    """
    hosts = tuple(range(size)) if hosts is None else tuple(hosts)
    world = World(hosts, network, cpu)

    def inside(thread: ThreadCommunicator) -> Any:
        comm = SimulatedCommunicator(thread.rank, size, thread.mailboxes, (), hosts, world, range(size))
        error: BaseException | None = None
        try:
            world.enter(comm.rank)
            return body(comm)
        except BaseException as caught:
            error = caught
            with thread.mailboxes.lock:
                thread.mailboxes.failure = thread.mailboxes.failure or world.failure or caught
            raise
        finally:
            world.leave(comm.rank, error)

    return run_ranks(size, inside, timeout=timeout, hosts=hosts)
