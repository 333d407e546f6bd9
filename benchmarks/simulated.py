"""Ranks that keep the time of a modelled network (`clocks.py`), behind the communicator that strategies know."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.clocks import POLL, Due, Time, World
from benchmarks.networks import Network
from mpidp.comm import Communicator, run_ranks
from mpidp.comm.memory import Window
from mpidp.comm.pending import Pending
from mpidp.comm.threads import Mailboxes, ThreadCommunicator, ThreadWindow
from mpidp.errors import RunError, UserError


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

    def Wait(self, *pending: Pending, of: Any = None) -> None:
        tests = [test for one in pending for test in one.tests]

        def complete() -> float | None:
            times = [test.when() for test in tests]
            return None if None in times else max(times, default=0.0)

        self.sleep(complete)
        assert super().Test(*pending)
        self.world.mark(self.me)

    def Waitany(self, pending: Sequence[Pending]) -> int:
        def complete(one: Pending) -> float:
            times = [test.when() for test in one.tests]
            return math.inf if None in times else max(times, default=0.0)

        def first() -> float | None:
            earliest = min(map(complete, pending))
            return None if math.isinf(earliest) else earliest

        self.sleep(first)
        found = min(range(len(pending)), key=lambda i: complete(pending[i]))
        assert super().Test(pending[found])
        self.world.mark(self.me)
        return found

    def sleep(self, until: Time) -> None:
        """Let the others go first, up to the time `until()`, and count what was waited for."""
        began = self.now()
        self.world.sleep(self.me, until)
        self.traffic.seconds_waiting += self.world.clock[self.me] - began

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Due:
        world, key = self.world, (self.context, self.rank, dest, tag)
        world.yield_(self.me)
        left, there = world.transfer(self.me, self.members[dest], raw.nbytes, world.clock[self.me])
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

    def _iprobe(self, source: int, tag: int) -> Due:
        world, key = self.world, (self.context, source, self.rank, tag)
        message = (*key, world.asked[key])
        return Due(world, self.me, lambda: world.mail[message][0] if message in world.mail else None)

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

    def _allocate_window(self, n: int, dtype: np.dtype) -> Window:
        return SimulatedWindow(self, self._vectors(n, dtype))

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


class SimulatedWindow(ThreadWindow):
    """A window whose operations take the time of the messages that they are; reading asks first, which takes α."""

    comm: SimulatedCommunicator

    def _accumulate(self, buffer: np.ndarray, target: int) -> Due:
        self.comm.world.yield_(self.comm.me)
        super()._accumulate(buffer, target)
        return self.due(self.comm.me, self.comm.members[target], buffer.nbytes)

    def _put(self, buffer: np.ndarray, target: int) -> Due:
        self.comm.world.yield_(self.comm.me)
        super()._put(buffer, target)
        return self.due(self.comm.me, self.comm.members[target], buffer.nbytes)

    def _get(self, buffer: np.ndarray, target: int) -> Due:
        self.comm.world.yield_(self.comm.me)
        super()._get(buffer, target)
        return self.due(self.comm.members[target], self.comm.me, buffer.nbytes, self.comm.world.network.alpha)

    def due(self, source: int, dest: int, nbytes: int, asked: float = 0.0) -> Due:
        world, me = self.comm.world, self.comm.me
        _, there = world.transfer(source, dest, nbytes, world.clock[me] + asked * (source != dest))
        world.mark(me)
        return Due(world, me, lambda: there)


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
