"""Asynchronous training with no server process: parameters in windows that every rank reads and adds to."""

import contextlib
from collections.abc import Iterator

import numpy as np

from mpidp.collectives.ring import chunk
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.staleness import Staleness, added
from mpidp.strategies.state import bounds, counter, prefixed, unprefixed
from mpidp.takeover import Histogram, Mean, Owned, Same


class OneSided(Strategy):
    """Rank j owns chunk j of the parameters, in a window; every rank works on a copy and adds what it has changed.

        y ← optimizer_r(x_r, g_r)                          rank r's own optimizer, on its copy x_r
        chunk j of the windows += (y - x_r)[chunk j]       for every j
        x_r ← the windows

    g_r: Σ over the rank's samples, times P / (samples of all ranks): with equal shares the mean over its own. So a step
    is P updates of full size on small batches, as with an asynchronous server, but each rank's momentum is its own.
    Clipping looks at g_r alone. Owners have nothing to do, and no rank waits for another between two meetings.
    Consistency: none between steps; an element is added to and read as a whole, a chunk is not. When all ranks have
    come together, the windows hold every update once. Staleness: updates of others between two readings of a rank.
    Cost a step, operations on others' windows counted as messages: 2 (P - 1), 2 n (P - 1) / P bytes; and to count
    updates, for all but rank 0, 2 more of 8 bytes.
    Sources: Recht et al. 2011, "Hogwild!", 1106.5730; by messages, Dean et al. 2012, NIPS (Downpour).
    """

    uses_collective = False
    why_plain = "adds to windows of memory, which add numbers as they are"

    def __init__(self, setup: Setup, options):
        super().__init__(setup, options)
        comm, n = self.comm, setup.size
        self.parts = [chunk(n, comm.size, j) for j in range(comm.size)]
        self.copy = setup.xp.empty(n, setup.dtype)
        self.optimizer = setup.optimizer(0, n, self.copy)
        self.replicated = self.deterministic = self.exact()
        self.why_no_skip = (
            None if self.exact() else "lets ranks run apart, so that none knows of another's step"
        )
        self.mine = self.parts[comm.rank]
        self.window = comm.Allocate_window(self.mine.stop - self.mine.start, setup.dtype)
        self.updates = comm.Allocate_window(1, np.int64)  # rank 0's counts them
        self.seen = counter(0)  # updates in what we have read
        self.staleness = Staleness()

    @classmethod
    def replicas_part(cls, ranks, options) -> bool:
        return ranks > 1

    @classmethod
    def saved_vectors(cls, rank, ranks, options) -> float:
        return 1 + 1 / ranks

    @classmethod
    def extra_vectors(cls, rank, ranks, options) -> float:
        return 1 + 1 / ranks  # the copy, and the window

    def start(self) -> None:
        super().start()
        self.own(self.params[self.mine])

    def own(self, part) -> None:
        """Our chunk of the parameters ← part, on all ranks together."""
        self.comm.Wait(self.window.Put(part, self.comm.rank))
        self.comm.Barrier()  # nobody reads or adds before

    def scale(self, step: Step) -> float:
        return self.comm.size / step.total

    def ready(self, lo: int, hi: int) -> None:
        self.advance()

    def advance(self) -> None:
        """Owners have nothing to do, but between hosts libraries work on windows in calls to them alone: call one."""
        self.window.Progress()

    def step(self, step: Step) -> None:
        self.copy[...] = self.params
        factor = self.clipping(self.grads)
        self.optimizer.step(self.params, self.grads, 0, step.lr, step.t, factor)
        change = self.setup.xp.subtract(self.params, self.copy, out=self.grads)  # the gradient is used up
        before, one = int(self.seen[0]), counter(1)
        with self.communicating():
            adds = [self.window.Accumulate(change[part], j) for j, part in enumerate(self.parts)]
            adds.append(self.updates.Accumulate(one, 0))
            self.comm.Wait(*adds, *self.read(self.params), self.updates.Get(self.seen, 0))
        self.staleness.add(int(self.seen[0]) - before - 1)

    def read(self, out) -> list:
        """Start out ← the windows."""
        return [self.window.Get(out[part], j) for j, part in enumerate(self.parts)]

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """All ranks together: inside, the windows hold all that any rank has added, and no rank adds."""
        with self.communicating():
            self.comm.Barrier()
            yield
            self.comm.Barrier()

    def merge(self, out) -> None:
        """out ← the windows."""
        with self.still():
            self.comm.Wait(*self.read(out))

    def exact(self) -> bool:
        return self.comm.size == 1

    def cost(self, t: int) -> tuple[int, int]:
        others, counting = self.comm.size - 1, 2 if self.comm.rank else 0
        theirs = (self.setup.size - (self.mine.stop - self.mine.start)) * np.dtype(self.setup.dtype).itemsize
        return 2 * others + counting, 2 * theirs + 8 * counting

    def saved(self, whole=False):
        return super().saved(whole) | bounds(self.mine)

    @classmethod
    def owners(cls, ranks, options):
        return range(ranks)

    def rules(self):
        return {
            "": Same,
            "state.owned": lambda: Owned(slice(0, self.setup.size)),
            "state.optimizer": Mean,
            "state.staleness": lambda: Histogram(self.comm.rank),
        }

    def regroup(self, saved):
        """Each rank begins with the windows as they are."""
        arrays = super().regroup(saved)
        whole = arrays["state.owned"]
        return arrays | {
            "params": whole,
            "state.owned": whole[self.mine],
            "state.seen": arrays["state.updates"],
        }

    def state(self):
        owned, updates = self.setup.xp.empty_like(self.copy[self.mine]), counter(0)
        with self.still():
            self.comm.Wait(self.window.Get(owned, self.comm.rank), self.updates.Get(updates, 0))
        state = {"owned": owned, "updates": updates, "seen": self.seen, "staleness": self.staleness.state()}
        return state | prefixed("optimizer", self.optimizer.state())

    def load_state(self, state):
        self.seen[...] = state["seen"]
        self.staleness = Staleness(state["staleness"])
        self.optimizer.load_state(unprefixed("optimizer", state))
        if self.comm.rank == 0:
            self.comm.Wait(self.updates.Put(state["updates"], 0))
        self.own(state["owned"])

    def summary(self):
        return added(self.comm.allgather(self.staleness.counts)).summary()
