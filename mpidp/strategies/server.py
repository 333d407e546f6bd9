"""Parameter servers."""

import functools

import numpy as np

from mpidp.collectives import broadcast
from mpidp.collectives.ring import chunk
from mpidp.errors import UserError
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.server_options import ServerOptions
from mpidp.strategies.server_rule import PULL, PUSH, VERSION, WORD, Rule
from mpidp.strategies.server_rules import rule
from mpidp.strategies.state import bounds, prefixed, unprefixed
from mpidp.takeover import Owned, Same


class Server(Strategy):
    """Workers push gradients, servers add them in worker order and step, workers pull parameters.

    The last k ranks are servers; server j owns chunk j of k of the flat vector, with its optimizer state:

        worker w:  send g_w[chunk j] to server j, for every j;   receive x[chunk j]
        server j:  g ← Σ_w g_w[chunk j];  x[chunk j] ← optimizer(x[chunk j], g);  send x[chunk j] to every worker

    Clipping needs ‖g‖ of the whole vector: the servers exchange their parts' squared norms.
    Consistency: that of all-reduce (synchronous), unless `--consistency` or `--backup-workers` says otherwise: their
    rules are in `server_rules.py`. Cost a step, for W workers and n bytes: worker k messages, n bytes;
    server W messages, W n / k bytes; with clipping and k > 1 also k - 1 messages of 8 bytes from every server.
    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server", OSDI.
    """

    Options = ServerOptions
    uses_collective = False
    encodes = "pushes"
    depends_on_ranks = (
        "adds the workers' gradients one after another, in an order with as many terms as there are workers"
    )
    cases = (
        {"servers": 1},
        {"servers": 2},
        {"consistency": "stale", "staleness": 0, "servers": 2},
        {"consistency": "stale", "staleness": 2},
        {"consistency": "asynchronous", "delay_compensation": 0.1, "servers": 2},
        {"backup_workers": 1, "servers": 2},
    )

    def __init__(self, setup: Setup, options: ServerOptions):
        super().__init__(setup, options)
        self.parts = [chunk(setup.size, options.servers, j) for j in range(options.servers)]
        self.server_ranks = range(self.workers, self.comm.size)
        self.ruled = rule(options)  # by what kind of rule, None: as above
        self.rule: Rule | None = None  # of this server
        self.replicated = self.deterministic = self.exact()
        self.why_no_skip = self.ruled and "counts the gradients that its workers push, one in every step"
        self.make_sum()
        self.pushes = 0  # of this worker, in this start of the run
        self.next_step = 0  # of this worker, where it may be behind
        self.part = slice(0, 0)  # of a server
        if self.worker is None:
            self.part = self.parts[self.comm.rank - self.workers]
            self.incoming = [self.buffer() for _ in range(min(2, self.workers))]
            self.optimizer = setup.optimizer(self.part.start, self.part.stop, self.incoming[0])
            self.rule = self.ruled and self.ruled(self)

    def buffer(self):
        """Memory for a push to this server."""
        return self.setup.xp.empty(self.part.stop - self.part.start, self.setup.dtype)

    @classmethod
    def count_workers(cls, ranks: int, options: ServerOptions) -> int:
        workers, backup = ranks - options.servers, options.backup_workers or 0
        if workers < 1:
            raise UserError(
                f"--sync server needs a worker beside its {options.servers} server(s), but there "
                f"{'is 1 rank' if ranks == 1 else f'are {ranks} ranks'}: start mpirun -n {options.servers + 1} or more"
            )
        if backup >= workers:
            raise UserError(
                f"--backup-workers {backup} would leave out the gradients of all {workers} worker(s): "
                f"start mpirun -n {options.servers + backup + 1} or more, or choose at most {workers - 1}"
            )
        return workers

    @classmethod
    def replicas_part(cls, ranks: int, options: ServerOptions) -> bool:
        ruled = rule(options)
        return ruled is not None and cls.count_workers(ranks, options) > 1 and not ruled.exact(options)

    @classmethod
    def optimizer_share(cls, rank: int, ranks: int, options: ServerOptions) -> float:
        return 0 if rank < cls.count_workers(ranks, options) else 1 / options.servers

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: ServerOptions) -> float:
        ruled, workers = rule(options), cls.count_workers(ranks, options)
        if rank < workers:
            return 1
        return 0 if ruled is None else (1 + ruled.saved_answers(workers, options)) / options.servers

    @classmethod
    def extra_vectors(cls, rank: int, ranks: int, options: ServerOptions) -> float:
        """What servers keep are pushes and answers, each server its part of them."""
        ruled, workers = rule(options), cls.count_workers(ranks, options)
        if rank < workers:
            return 0
        kept = min(2, workers) if ruled is None else ruled.kept(workers, options)
        return kept / options.servers

    def start(self) -> None:
        super().start()
        if self.rule is not None:
            self.rule.start()

    def scale(self, step: Step) -> float:
        return self.ruled.scale(step, self) if self.ruled else super().scale(step)

    def behind(self, t: int) -> bool:
        return t < self.next_step

    def step(self, step: Step) -> None:
        if self.rule is not None:
            self.rule.serve(step)
        elif self.worker is None:
            self.serve(step)
        elif not self.behind(step.t):
            self.work()

    def work(self) -> None:
        """A worker's step."""
        clips = self.ruled and self.ruled.clips_pushes
        if clips and (factor := self.clip_factor(self.squared_norm(self.grads))) != 1:
            self.grads *= factor
        self.push_and_pull()
        self.pushes += 1
        if self.ruled and self.ruled.tells_version:
            version = np.empty(1, np.int64)
            with self.communicating():
                self.comm.Recv(version, self.server_ranks[0], VERSION)
            self.next_step = int(version[0]) + 1

    def push_and_pull(self) -> None:
        comm, parts = self.comm, list(zip(self.server_ranks, self.parts, strict=True))
        with self.communicating():
            pulls = [comm.Irecv(self.params[part], rank, PULL) for rank, part in parts]
            wire = self.summing.outgoing(self.grads, [0, *(part.stop for part in self.parts)])
            pushes = [comm.Isend(wire.partial(part), rank, PUSH) for rank, part in parts]
            comm.Wait(*pulls, *pushes)

    def serve(self, step: Step) -> None:
        comm, mine, total = self.comm, self.params[self.part], self.grads[self.part]
        with self.communicating():
            self.add_pushes(total)
        self.update(total, step.lr, step.t)
        with self.communicating():
            comm.Wait(*[comm.Isend(mine, worker, PULL) for worker in range(self.workers)])

    def add_pushes(self, total) -> None:
        """total ← Σ_w g_w, in worker order whoever is first, with the next push under way while one is added."""
        comm, slots = self.comm, self.incoming
        landings = [self.summing.landing(slot, i) for i, slot in enumerate(slots)]
        pushes = [comm.Irecv(landing, worker, PUSH) for worker, landing in enumerate(landings)]
        for worker in range(self.workers):
            slot = worker % len(slots)
            comm.Wait(pushes[slot])
            self.summing.decode(landings[slot], slots[slot])
            if worker == 0:
                total[...] = slots[slot]
            else:
                total += slots[slot]
            if worker + len(slots) < self.workers:
                pushes[slot] = comm.Irecv(landings[slot], worker + len(slots), PUSH)

    def receive(self, gradient, worker: int) -> None:
        """gradient ← this worker's push."""
        landing = self.summing.landing(gradient)
        self.comm.Recv(landing, worker, PUSH)
        self.summing.decode(landing, gradient)

    def update(self, total, lr: float, t: int) -> None:
        """Update number t of this server's part, by the sum of gradients, clipped by the norm of the whole one."""
        self.summing.settle(total)
        with self.communicating():
            squared = self.add_over(self.server_ranks, self.squared_norm(total))
        self.optimizer.step(self.params[self.part], total, self.part.start, lr, t, self.clip_factor(squared))

    def merge(self, out) -> None:
        """out ← the servers' parameters, on every rank."""
        super().merge(out)
        with self.communicating():
            for rank, part in zip(self.server_ranks, self.parts, strict=True):
                broadcast(self.comm, out[part], rank)

    def exact(self) -> bool:
        return not self.replicas_part(self.comm.size, self.options)

    def cost(self, t: int) -> tuple[int, int]:
        return self.cost_of(1, self.workers, 1)

    def total_cost(self, t: int) -> tuple[int, int]:
        if self.options.backup_workers is None:
            return super().total_cost(t)
        return self.cost_of(self.pushes, self.rule.pushes if self.rule else 0, t)

    def cost_of(self, pushes: int, served: int, updates: int) -> tuple[int, int]:
        """(messages, bytes) of a worker for its pushes, or of a server for what it `served` of them and its updates."""
        itemsize, others = np.dtype(self.setup.dtype).itemsize, self.options.servers - 1
        if self.worker is not None:
            sent = sum(self.summing.nbytes(part.stop - part.start) for part in self.parts)
            return pushes * (others + 1), pushes * sent
        messages, sent = served, served * (self.part.stop - self.part.start) * itemsize
        if self.setup.clip is not None and not (self.ruled and self.ruled.clips_pushes):
            messages, sent = messages + others * updates, sent + WORD * others * updates
        if self.ruled and self.comm.rank == self.server_ranks[0]:
            messages, sent = messages + others * served, sent + WORD * others * served
            if self.ruled.tells_version:
                messages, sent = messages + served, sent + WORD * served
        return messages, sent

    def saved(self, whole=False):
        if self.ruled:
            self.comm.Barrier()  # a server does not count a push of the next step as one of this
        state = prefixed("state", self.state())
        if self.worker is None:
            return bounds(self.part) | state
        return state if self.replicated and self.worker and not whole else {"params": self.params} | state

    @classmethod
    def owners(cls, ranks, options):
        return range(cls.count_workers(ranks, options), ranks)

    def rules(self):
        if self.ruled is None:
            return {"params": Same, "state": lambda: Owned(self.part)}
        whole = slice(0, self.setup.size)
        optimizer, part = (functools.partial(Owned, part) for part in (self.part, whole))
        return {"": Same, "state.part": part, "state.optimizer": optimizer}

    def regroup(self, saved):
        """Under a rule all workers begin together, with the servers' parameters as they are."""
        arrays = super().regroup(saved)
        if self.ruled is None:
            return arrays
        whole = arrays["state.part"]
        arrays |= {"params": whole, "state.part": whole[self.part]}
        if self.rule is not None:
            state = unprefixed("state.rule", arrays)
            arrays |= prefixed("state.rule", self.rule.regrouped(state, arrays["state.part"]))
        return arrays

    def state(self):
        if self.worker is not None:
            return self.sum_state()
        if self.rule is None:
            return self.optimizer.state() | self.sum_state()
        part = {"part": self.params[self.part]} | self.sum_state()
        return part | prefixed("optimizer", self.optimizer.state()) | prefixed("rule", self.rule.state())

    def load_state(self, state):
        state = self.load_sum_state(state)
        if self.worker is not None:
            return
        if self.rule is None:
            self.optimizer.load_state(state)
            return
        self.params[self.part] = state["part"]
        self.optimizer.load_state(unprefixed("optimizer", state))
        self.rule.load_state(unprefixed("rule", state))

    def summary(self):
        """What the first server counted, since the run's very beginning."""
        if self.ruled is None:
            return {}
        return self.comm.bcast(self.rule.summary() if self.rule else None, self.server_ranks[0])
