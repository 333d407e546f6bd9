"""What parameter servers do with a push where they do not simply wait for one of each worker.

Letters: W workers; x the parameters, x_v after v updates; g_w the gradient in a push of worker w, and u the version of
the parameters that it was taken at, so that v - u is its staleness when update v + 1 is made of it.

All servers handle the pushes in the order in which they reach the first one, which tells the others whose turn it is (8
bytes a push to each). So all make the same updates from the same gradients, and an answer is one version of the whole
model, however many servers it comes from. There is one answer a push, and a worker waits for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm.pending import Pending
from mpidp.strategies.base import Step
from mpidp.strategies.staleness import Staleness
from mpidp.strategies.state import counter

if TYPE_CHECKING:
    from mpidp.strategies.server import Server
    from mpidp.strategies.server_options import ServerOptions

PUSH, PULL, ORDER, VERSION = 1, 2, 4, 5  # message tags
WORD = 8  # bytes of a number that says whose turn it is, or a version


class Rule:
    """One server's conduct: `take` handles a push, `done` says when a step of the training loop is over here."""

    clips_pushes = False
    """Whether clipping looks at the norm of each push, before it is sent, instead of at that of a sum."""
    tells_version = False
    """Whether an answer says which version it is, as the worker cannot know it."""

    def __init__(self, server: "Server"):
        self.server, self.comm, self.workers = server, server.comm, server.workers
        self.version = 0  # updates made
        self.seen = [0] * self.workers  # of each worker: the version that it was last sent
        self.pushes = self.begun = 0  # pushes handled and steps begun in this start of the run
        self.staleness = Staleness()
        self.idle = list(server.incoming)  # buffers for pushes
        self.sends: list[Pending] = []

    @classmethod
    def scale(cls, step: Step, server: "Server") -> float:
        """The factor of the sum of a worker's losses."""
        return 1.0 / step.total

    @classmethod
    def exact(cls, options: "ServerOptions") -> bool:
        """Whether the servers make of the gradients what one process would, for any number of workers."""
        return False

    @classmethod
    def kept(cls, workers: int, options: "ServerOptions") -> int:
        """How many pushes and answers, each of a server's part of the vector, are in memory at a time, at most."""
        raise NotImplementedError

    @classmethod
    def saved_answers(cls, workers: int, options: "ServerOptions") -> int:
        """How many of them `state()` holds."""
        return 0

    def start(self) -> None:
        """The parameters are those of version 0, here and at every worker."""

    def serve(self, step: Step) -> None:
        """Handle pushes until this step is over."""
        self.begun += 1
        while not self.done(step):
            with self.server.communicating():
                worker = self.next_worker()
                gradient = self.idle.pop() if self.idle else self.server.buffer()
                self.server.receive(gradient, worker)
            self.pushes += 1
            self.take(worker, gradient, step)
        if step.meeting:
            self.finish_sends()

    def done(self, step: Step) -> bool: ...

    def take(self, worker: int, gradient: Array, step: Step) -> None:
        """A push has come; the buffer goes back to `idle` when it is used up."""

    def next_worker(self) -> int:
        """Whose push is next: at the first server whoever has come, at the others what the first one says."""
        first, *others = self.server.server_ranks
        if self.comm.rank != first:
            turn = np.empty(1, np.int64)
            self.comm.Recv(turn, first, ORDER)
            return int(turn[0])
        worker = self.comm.Waitany([self.comm.Iprobe(w, PUSH) for w in range(self.workers)])
        self.send(counter(worker), others, ORDER)
        return worker

    def answer(self, workers: Sequence[int], params: Array) -> list[Pending]:
        """Start to send `params`, which are x of now, to these workers."""
        for worker in workers:
            self.seen[worker] = self.version
        with self.server.communicating():
            if self.tells_version and self.comm.rank == self.server.server_ranks[0]:
                self.send(counter(self.version), workers, VERSION)
            return self.send(params, workers, PULL)

    def send(self, buffer: Array, ranks: Sequence[int], tag: int) -> list[Pending]:
        self.sends = [pending for pending in self.sends if not self.comm.Test(pending)]
        started = [self.comm.Isend(buffer, rank, tag) for rank in ranks]
        self.sends += started
        return started

    def finish_sends(self) -> None:
        with self.server.communicating():
            self.comm.Wait(*self.sends)
        self.sends.clear()

    def commit(self, pushes: dict[int, Array], step: Step) -> None:
        """x ← optimizer(x, Σ_w g_w), in worker order."""
        total = self.server.grads[self.server.part]
        for i, worker in enumerate(sorted(pushes)):
            if i == 0:
                total[...] = pushes[worker]
            else:
                total += pushes[worker]
            self.idle.append(pushes[worker])
        self.finish_sends()  # of x as it is
        self.server.update(total, step.lr, self.version + 1)
        self.version += 1

    def summary(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        return self.staleness.summary()

    def state(self) -> dict[str, Array]:
        """Of a moment at which all ranks have come together: all pushes are answered and used up."""
        return {
            "version": counter(self.version),
            "seen": np.array(self.seen, np.int64),
            "staleness": self.staleness.state(),
        }

    def regrouped(self, state: dict[str, Array], x: Array) -> dict[str, Array]:
        """`state` for another number of workers, which all begin with x, the part of the parameters here."""
        return state | {"seen": np.repeat(state["version"], self.workers)}

    def load_state(self, state: dict[str, Array]) -> None:
        self.version = int(state["version"][0])
        self.seen = [int(version) for version in state["seen"]]
        self.staleness = Staleness(state["staleness"])
