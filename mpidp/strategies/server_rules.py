"""The rules of parameter servers: stale-synchronous, asynchronous, and synchronous with backup workers."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.arrays import Array
from mpidp.comm.pending import Pending
from mpidp.strategies.base import Step
from mpidp.strategies.server_rule import Rule

if TYPE_CHECKING:
    from mpidp.strategies.server import Server
    from mpidp.strategies.server_options import ServerOptions


class Stale(Rule):
    """Stale-synchronous: a worker may be at most s = `--staleness` steps ahead of the slowest.

        on the push of step t from worker w:   keep it as g_w^(t)
        when g_w^(v+1) of every w is here:     x_{v+1} ← optimizer(x_v, Σ_w g_w^(v+1));  v ← v + 1
        whenever v ≥ t - s:                    answer w with x_v

    Guarantee: what a worker computes step t with holds all updates of steps 1 .. t - 1 - s, whole steps only, in their
    order, and none of later steps than t - 1; its staleness is s at most. s = 0 is the synchronous server in every bit.
    In the paper each worker's updates are applied by themselves, and it sees its own at once; here they are
    applied as whole steps alone, its own too, so that a step is one of the global batch to every optimizer and to
    clipping. Buffers: up to (s + 1) W pushes of n / k.
    Source: Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NIPS.
    """

    def __init__(self, server: "Server"):
        super().__init__(server)
        self.held: dict[int, dict[int, Array]] = {}  # step -> worker -> gradient
        self.steps = [0] * self.workers  # that each worker has pushed
        self.waiting: list[int] = []  # workers without an answer

    @classmethod
    def exact(cls, options: "ServerOptions") -> bool:
        return options.staleness == 0

    @classmethod
    def kept(cls, workers: int, options: "ServerOptions") -> int:
        return (options.staleness + 1) * workers

    def take(self, worker: int, gradient: Array, step: Step) -> None:
        self.steps[worker] += 1
        pushed = self.steps[worker]
        self.staleness.add(pushed - 1 - self.seen[worker])
        self.held.setdefault(pushed, {})[worker] = gradient
        self.waiting.append(worker)
        if len(self.held.get(self.version + 1, ())) == self.workers:
            self.commit(self.held.pop(self.version + 1), step)
        due = [w for w in self.waiting if self.version >= self.steps[w] - self.server.options.staleness]
        self.waiting = [w for w in self.waiting if w not in due]
        self.answer(due, self.server.params[self.server.part])

    def done(self, step: Step) -> bool:
        return self.version >= step.t

    def load_state(self, state: dict[str, Array]) -> None:
        super().load_state(state)
        self.steps = [self.version] * self.workers


class Backup(Rule):
    """Synchronous with b = `--backup-workers`: a step is made of the first W - b gradients, and late ones are dropped.

        on a push of the step under way:   keep it; with the (W - b)-th, x ← optimizer(x, mean of those kept), in worker
                                           order, and answer those workers
        on a late one:                     drop it; answer with x and its version: the worker goes on with the step that
                                           is under way now, and leaves out the ones in between

    Guarantee: every gradient that counts was taken at the x that it is applied to; its samples are those of W - b
    workers, chosen by time. The mean takes workers to have equal shares of the batch. Before all ranks come together
    the servers wait for the late workers, too. Cost: also 8 bytes from the first server with every answer.
    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", 1604.00981.
    """

    tells_version = True

    def __init__(self, server: "Server"):
        super().__init__(server)
        self.held: dict[int, Array] = {}  # worker -> gradient
        self.dropped = [0] * self.workers

    @classmethod
    def scale(cls, step: Step, server: "Server") -> float:
        taken = server.workers - server.options.backup_workers
        return 1.0 / (step.total * (taken / server.workers))

    @classmethod
    def exact(cls, options: "ServerOptions") -> bool:
        return options.backup_workers == 0

    @classmethod
    def kept(cls, workers: int, options: "ServerOptions") -> int:
        return max(min(2, workers), workers - options.backup_workers)

    def take(self, worker: int, gradient: Array, step: Step) -> None:
        if self.seen[worker] < self.version:
            self.dropped[worker] += 1
            self.idle.append(gradient)
            self.answer([worker], self.server.params[self.server.part])
            return
        self.held[worker] = gradient
        if len(self.held) == self.workers - self.server.options.backup_workers:
            self.commit(self.held, step)
            self.answer(sorted(self.held), self.server.params[self.server.part])
            self.held = {}

    def done(self, step: Step) -> bool:
        return self.version >= step.t and (not step.meeting or min(self.seen) >= step.t)

    def summary(self) -> dict[str, Any]:
        return {"dropped_gradients": list(self.dropped)}

    def state(self) -> dict[str, Array]:
        return super().state() | {"dropped": np.array(self.dropped, np.int64)}

    def regrouped(self, state, x):
        """Worker w goes on with the counts of those that are w modulo W."""
        dropped = np.zeros(self.workers, np.int64)
        np.add.at(dropped, np.arange(state["dropped"].size) % self.workers, state["dropped"])
        return super().regrouped(state, x) | {"dropped": dropped}

    def load_state(self, state: dict[str, Array]) -> None:
        super().load_state(state)
        self.dropped = [int(count) for count in state["dropped"]]


class Asynchronous(Rule):
    """Asynchronous (Downpour): every push is an update by itself, as it comes.

        x_{v+1} ← optimizer(x_v, g_w, η),   then answer w with x_{v+1}

    g_w: Σ over the worker's samples, times W / (samples of all workers): with equal shares the mean over its own, in
    general such that W pushes of one step add up to W times the mean over the global batch. So at the same η a step is
    W updates of full size on small batches. With τ = v - u, the updates of others since w was answered:

        --scale-by-staleness:      η / max(1, τ) instead of η                      (Zhang et al. 2015, 1511.05950)
        --delay-compensation λ:    g_w + λ g_w ⊙ g_w ⊙ (x_v - x_u) instead of g_w  (Zheng et al. 2016, 1609.08326)

    Guarantee: none on τ, which is large for one slow worker, who slows none of the others. Clipping looks at the norm
    of each push; its worker does it. The optimizer counts updates, the schedule steps of the training loop, W updates.
    When all ranks come together after step t, the servers have made just the W updates of each step up to t: a worker
    pushes step t + 1 when it is back from there, and a server goes there when it has counted the pushes before.
    Source: Dean et al. 2012, "Large Scale Distributed Deep Networks", NIPS.
    """

    clips_pushes = True

    def __init__(self, server: "Server"):
        super().__init__(server)
        # x_u of each worker: it is sent from there, so that x can go on in the meantime.
        self.sent = [server.buffer() for _ in range(self.workers)]
        self.replies: list[list[Pending]] = [[] for _ in range(self.workers)]

    @classmethod
    def scale(cls, step: Step, server: "Server") -> float:
        return server.workers / step.total

    @classmethod
    def kept(cls, workers: int, options: "ServerOptions") -> int:
        return workers + min(2, workers)

    @classmethod
    def saved_answers(cls, workers: int, options: "ServerOptions") -> int:
        return workers if options.delay_compensation else 0

    def start(self) -> None:
        for copy in self.sent:
            copy[...] = self.server.params[self.server.part]

    def take(self, worker: int, gradient: Array, step: Step) -> None:
        server, copy, options = self.server, self.sent[worker], self.server.options
        x, lr = server.params[server.part], step.lr
        staleness = self.version - self.seen[worker]
        self.staleness.add(staleness)
        with server.communicating():
            self.comm.Wait(*self.replies[worker])  # which it has; now the copy may change
        if options.delay_compensation:
            compensate(gradient, x, copy, options.delay_compensation)
        if options.scale_by_staleness:
            lr /= max(1, staleness)
        server.optimizer.step(x, gradient, server.part.start, lr, self.version + 1)
        self.version += 1
        copy[...] = x
        self.replies[worker] = self.answer([worker], copy)
        self.idle.append(gradient)

    def done(self, step: Step) -> bool:
        return self.pushes >= self.workers * self.begun

    def state(self) -> dict[str, Array]:
        state = super().state()
        if self.server.options.delay_compensation:
            state |= {f"sent{worker}": copy for worker, copy in enumerate(self.sent)}
        return state

    def regrouped(self, state, x):
        sent = {f"sent{worker}": x for worker in range(self.workers)}
        return super().regrouped(state, x) | sent

    def load_state(self, state: dict[str, Array]) -> None:
        super().load_state(state)
        if self.server.options.delay_compensation:
            for worker, copy in enumerate(self.sent):
                copy[...] = state[f"sent{worker}"]


def compensate(gradient: Array, x: Array, stale: Array, factor: float) -> None:
    """gradient += factor · gradient ⊙ gradient ⊙ (x - stale), in place; `stale` is used up by it.

    The gradient at x to first order, the Hessian taken as factor times the diagonal of gradient gradientᵀ.
    """
    stale -= x
    stale *= -factor
    stale *= gradient
    stale *= gradient
    gradient += stale


def rule(options: "ServerOptions") -> type[Rule] | None:
    """The kind of rule that these options ask for; None: servers that wait for a push of each worker, in order."""
    if options.consistency == "stale":
        return Stale
    if options.consistency == "asynchronous":
        return Asynchronous
    return None if options.backup_workers is None else Backup
