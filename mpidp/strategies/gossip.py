"""Gossip: every rank averages with the few neighbours that a graph gives it, and with no one else."""

from collections import deque
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mpidp.arrays import number, zeros
from mpidp.comm import Steps, UnderWay
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.graphs import GRAPHS, spectral_gap
from mpidp.strategies.state import counter, prefixed, unprefixed
from mpidp.takeover import Added, Mean, Same

MIX = 4  # message tag


@dataclass
class GossipOptions:
    graph: str = option("ring", "who sends to whom", choices=GRAPHS)
    mixing: str = option(
        "average",
        "what is made of what comes in: the mean, or push-sum, which is right on a graph that is not balanced too",
        choices=("average", "push-sum"),
    )
    overlap: bool = option(
        True, "exchange parameters during backward (x ← W x - η g), not after the step (x ← W (x - η g))"
    )

    def __post_init__(self):
        if self.mixing == "average" and not GRAPHS[self.graph].balanced:
            raise UserError(
                f"--graph {self.graph}: more ranks may send to one rank than to another, so that averaging would not "
                "keep the mean of all: add --mixing push-sum, or choose another graph"
            )


class Gossip(Strategy):
    """Each rank steps alone and takes a weighted mean with its neighbours of this round.

        --mixing average:    x_i ← Σ_j W_ij x_j - η g_i(x_i)                        D-PSGD; W doubly stochastic
        --mixing push-sum:   x_i ← Σ_j W_ij x_j - η g_i(z_i);  w_i ← Σ_j W_ij w_j;  z_i = x_i / w_i
                             the model is z; w_i = 1 at first; W column-stochastic is enough

    W_ij = 1 / (d + 1) for the rank itself and the d that send to it (`graphs.py`). As written, x travels while the
    gradient is computed at x; `--no-overlap` steps first and mixes then, x ← W (x - η g), as push-sum's authors have
    it. Any optimizer takes the place of - η g.

    Gossip weighs ranks alike, whatever their samples. So g_i = (P / m) Σ of rank i's samples' gradients, m those of all
    ranks: the mean of the g_i is the mean over the global batch, uneven shards included. A rank without samples
    in a step mixes and does not step. Clipping looks at the rank's own g_i. Merge: the mean of the x_i, which mixing
    leaves as it is (with push-sum Σ x_i / Σ w_i, and Σ w_i = P always).
    Consistency: replicas differ; their distance shrinks by the graph's ρ a step. Cost a step: d messages of n bytes
    (push-sum: of n and one number more). Sources: Lian et al. 2017, 1705.09056; Ying et al. 2021, 2110.13363; push-sum:
    Assran et al. 2018, 1811.10792.
    """

    Options = GossipOptions
    replicated = False
    why_plain = "hands parameters from neighbour to neighbour, and none of them can be kept for later"
    cases = ({"overlap": False}, {"graph": "random", "mixing": "push-sum"})

    def __init__(self, setup: Setup, options: GossipOptions):
        super().__init__(setup, options)
        self.graph = GRAPHS[options.graph]
        self.weighted = options.mixing == "push-sum"
        self.degree = len(self.arcs(1))
        self.rounds = 0  # mixed so far
        n, length = setup.size, setup.size + self.weighted
        self.scratch = setup.scratch(n)
        self.optimizer = setup.optimizer(0, n, self.scratch)
        if self.degree:
            # Sent from a copy, in turns from two: so a rank may go on while one that it sends to is a step behind.
            self.outgoing = [zeros(setup.xp, length, setup.dtype) for _ in range(2)]
            self.landing = [zeros(setup.xp, length, setup.dtype) for _ in range(2)]
            self.change = zeros(setup.xp, length, setup.dtype)
        self.sends = [[], []]
        self.under_way: UnderWay | None = None

    @classmethod
    def count_workers(cls, ranks: int, options: GossipOptions) -> int:
        GRAPHS[options.graph].check(ranks)
        return ranks

    @classmethod
    def saved_vectors(cls, rank: int, ranks: int, options: GossipOptions) -> float:
        return 2 if options.mixing == "push-sum" else 1

    @classmethod
    def extra_vectors(cls, rank: int, ranks: int, options: GossipOptions) -> float:
        return 4 + cls.saved_vectors(rank, ranks, options)

    def allocate(self):
        super().allocate()
        self.mass = self.params
        if self.weighted:  # x, and w behind it
            self.mass = zeros(self.setup.xp, self.setup.size + 1, self.setup.dtype)
        self.x = self.mass[: self.setup.size]
        return self.params, self.grads

    def start(self) -> None:
        super().start()
        if self.weighted:
            self.x[...] = self.params
            self.mass[-1] = 1

    def arcs(self, t: int) -> np.ndarray:
        return self.graph.arcs(self.comm.size, t, self.setup.seed)

    def scale(self, step: Step) -> float:
        return self.comm.size / step.total

    def ready(self, lo: int, hi: int) -> None:
        self.advance()

    def advance(self) -> None:
        if self.options.overlap:
            with self.communicating():
                self.begin()
                self.under_way.advance()

    def step(self, step: Step) -> None:
        if not self.options.overlap:
            self.step_alone(step)
        with self.communicating():
            self.finish()
        if self.options.overlap:
            self.step_alone(step)
        if self.weighted:
            self.setup.xp.divide(self.x, self.mass[-1], out=self.params)

    def skip(self, step: Step) -> None:
        self.step(step)  # without samples all mix, and none steps

    def step_alone(self, step: Step) -> None:
        if step.samples:
            scale = self.clipping(self.grads)
            self.optimizer.step(self.x, self.grads, 0, step.lr, step.t, scale)

    def begin(self) -> None:
        """Start this step's mixing, if it has not started."""
        if self.under_way is None:
            self.under_way = UnderWay(self.comm, self.mixing(self.rounds + 1))

    def finish(self) -> None:
        """x_i ← Σ_j W_ij x_j, written x_i + (Σ_j x_j - d x_i) / (d + 1): of equal x there is no rounding to add up."""
        self.begin()
        while not self.under_way.advance():
            self.under_way.wait()
        self.under_way = None
        self.rounds += 1
        if self.degree:
            self.change *= 1 / (self.degree + 1)
            self.mass += self.change

    def mixing(self, t: int) -> Steps:
        """change ← Σ_j x_j - d x_i, over those j that send to this rank in round t."""
        comm, arcs, turn = self.comm, self.arcs(t), t % 2
        yield self.sends[turn]
        if not self.degree:
            return
        sources = np.nonzero(arcs == comm.rank)[1].tolist()
        # Two arrivals are under way; when one is added, the next takes its place.
        first = zip(self.landing, sources, strict=False)
        coming = deque((slot, comm.Irecv(slot, source, MIX)) for slot, source in first)
        message, targets = self.outgoing[turn], arcs[:, comm.rank].tolist()
        message[...] = self.mass
        self.sends[turn] = [comm.Isend(message, target, MIX) for target in targets]
        self.setup.xp.multiply(self.mass, -self.degree, out=self.change)
        for source in [*sources[len(coming) :], *[None] * len(coming)]:
            slot, arrival = coming.popleft()
            yield (arrival,)
            self.change += slot
            if source is not None:
                coming.append((slot, comm.Irecv(slot, source, MIX)))

    def merge(self, out) -> None:
        """out ← 1/P Σ x_i."""
        self.setup.xp.multiply(self.x, 1 / self.comm.size, out=out)
        with self.communicating():
            self.comm.Wait(*chain(*self.sends))
            self.setup.collective.allreduce(self.comm, out, self.scratch)

    def exact(self) -> bool:
        """Where everybody hears everybody after each step."""
        return self.comm.size == 1 or (self.degree == self.comm.size - 1 and not self.options.overlap)

    def cost(self, t: int) -> tuple[int, int]:
        return self.degree, self.degree * self.mass.nbytes

    def summary(self):
        gap = spectral_gap(self.graph, self.comm.size)
        figures = {"graph": self.graph.name, "graph_degree": self.degree, "spectral_gap": gap}
        if self.weighted:
            figures["push_sum_weights"] = self.comm.allgather(number(self.mass[-1]))
        return figures

    def rules(self):
        return {"": Same, "params": Mean, "state.optimizer": Mean, "state.mass": Added}

    def regroup(self, saved):
        """Σ w is P again, whatever P is now, and whatever weight was lost."""
        arrays = super().regroup(saved)
        if self.weighted:
            mass = arrays["state.mass"]
            mass *= self.comm.size / sum(self.comm.allgather(float(mass[-1])))
            arrays["params"] = mass[:-1] / mass[-1]
        return arrays

    def state(self):
        state = {"rounds": counter(self.rounds)} | prefixed("optimizer", self.optimizer.state())
        return state | ({"mass": self.mass} if self.weighted else {})

    def load_state(self, state):
        self.rounds = int(state["rounds"][0])
        if self.weighted:
            self.mass[...] = state["mass"]
        self.optimizer.load_state(unprefixed("optimizer", state))
