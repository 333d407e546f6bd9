"""Parameter servers, synchronous."""

from dataclasses import dataclass

import numpy as np

from mpidp.collectives import broadcast
from mpidp.collectives.ring import chunk
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step, Strategy, prefixed

PUSH, PULL = 1, 2  # message tags


@dataclass
class ServerOptions:
    servers: int = option(
        1, "ranks (the last ones) that serve instead of work; the model is cut over them", minimum=1
    )


class Server(Strategy):
    """Workers push gradients, servers add them in worker order and step, workers pull parameters.

    The last k ranks are servers; server j owns chunk j of k of the flat vector, with its optimizer state:

        worker w:  send g_w[chunk j] to server j, for every j;   receive x[chunk j]
        server j:  g ← Σ_w g_w[chunk j];  x[chunk j] ← optimizer(x[chunk j], g);  send x[chunk j] to every worker

    Clipping needs ‖g‖ of the whole vector: the servers exchange their parts' squared norms.
    Consistency: that of all-reduce (synchronous). Cost a step, for W workers and n bytes: worker k messages, n bytes;
    server W messages, W n / k bytes; with clipping and k > 1 also k - 1 messages of 8 bytes from every server.
    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server", OSDI.
    """

    Options = ServerOptions
    uses_collective = False
    depends_on_ranks = (
        "adds the workers' gradients one after another, in an order with as many terms as there are workers"
    )
    cases = ({"servers": 1}, {"servers": 2})

    def __init__(self, setup: Setup, options: ServerOptions):
        super().__init__(setup, options)
        self.parts = [chunk(setup.size, options.servers, j) for j in range(options.servers)]
        self.server_ranks = range(self.workers, self.comm.size)
        if self.worker is None:
            self.part = self.parts[self.comm.rank - self.workers]
            length = self.part.stop - self.part.start
            self.incoming = [setup.xp.empty(length, setup.dtype) for _ in range(min(2, self.workers))]
            self.optimizer = setup.optimizer(self.part.start, self.part.stop, self.incoming[0])

    @classmethod
    def count_workers(cls, ranks: int, options: ServerOptions) -> int:
        if ranks <= options.servers:
            raise UserError(
                f"--sync server needs a worker beside its {options.servers} server(s), but there "
                f"{'is 1 rank' if ranks == 1 else f'are {ranks} ranks'}: start mpirun -n {options.servers + 1} or more"
            )
        return ranks - options.servers

    def step(self, step: Step) -> None:
        if self.worker is None:
            self.serve(step)
        else:
            self.push_and_pull()

    def push_and_pull(self) -> None:
        comm, parts = self.comm, list(zip(self.server_ranks, self.parts, strict=True))
        with self.communicating():
            pulls = [comm.Irecv(self.params[part], rank, PULL) for rank, part in parts]
            pushes = [comm.Isend(self.grads[part], rank, PUSH) for rank, part in parts]
            comm.Wait(*pulls, *pushes)

    def serve(self, step: Step) -> None:
        comm, mine, total = self.comm, self.params[self.part], self.grads[self.part]
        with self.communicating():
            self.add_pushes(total)
            squared = self.add_over(self.server_ranks, self.squared_norm(total))
        self.optimizer.step(mine, total, self.part.start, step.lr, step.t, self.clip_factor(squared))
        with self.communicating():
            comm.Wait(*[comm.Isend(mine, worker, PULL) for worker in range(self.workers)])

    def add_pushes(self, total) -> None:
        """total ← Σ_w g_w, in worker order whoever is first, with the next push under way while one is added."""
        comm, slots = self.comm, self.incoming
        pushes = [comm.Irecv(slot, worker, PUSH) for worker, slot in enumerate(slots)]
        for worker in range(self.workers):
            slot = worker % len(slots)
            comm.Wait(pushes[slot])
            if worker == 0:
                total[...] = slots[slot]
            else:
                total += slots[slot]
            if worker + len(slots) < self.workers:
                pushes[slot] = comm.Irecv(slots[slot], worker + len(slots), PUSH)

    def merge(self, out) -> None:
        """out ← the workers' parameters, on the servers as well."""
        super().merge(out)
        with self.communicating():
            broadcast(self.comm, out)

    def cost(self, t: int) -> tuple[int, int]:
        itemsize, servers = np.dtype(self.setup.dtype).itemsize, self.options.servers
        if self.worker is not None:
            return servers, self.setup.size * itemsize
        norms = servers - 1 if self.setup.clip is not None else 0
        return self.workers + norms, self.workers * (self.part.stop - self.part.start) * itemsize + 8 * norms

    def saved(self):
        params = {"params": self.params} if self.comm.rank == 0 else {}
        return params | prefixed("state", self.state())

    def state(self):
        return self.optimizer.state() if self.worker is None else {}

    def load_state(self, state):
        if self.worker is None:
            self.optimizer.load_state(state)
