"""Replicas: are they equal, or how far are they apart?"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpidp.arrays import to_host
from mpidp.collectives import COLLECTIVES, broadcast
from mpidp.comm import Communicator
from mpidp.diagnostics.base import Diagnostic
from mpidp.errors import RunError
from mpidp.optim import squared_norm
from mpidp.strategies import Step, Strategy

RING = COLLECTIVES["ring"]  # takes no shared memory, and suits vectors of any length on any ranks


class Replicas(Diagnostic):
    """SHA-256 of every worker's parameters, compared every `every` steps and after the last.

    One that differs ends the run. Cost: a gather of P short texts.
    """

    def __init__(self, every: int, steps: int, strategy: Strategy, comm: Communicator):
        self.every, self.steps, self.strategy, self.comm = every, steps, strategy, comm
        self.checks = 0

    def after(self, step: Step, logged: bool) -> dict[str, Any]:
        if step.t % self.every == 0 or step.t == self.steps:
            self.checks += 1
            params = to_host(self.strategy.params)
            digests = self.comm.allgather(hashlib.sha256(params.view(np.uint8)).hexdigest())
            if difference := told(digests[: self.strategy.workers]):
                raise RunError(
                    f"step {step.t}: the replicas differ (--check-replicas): {difference}. A fault of memory, or of "
                    "software that differs between hosts: mend that, and go on from a checkpoint made before it"
                )
        return {}

    def summary(self) -> dict[str, Any]:
        return {"replica_checks": self.checks}


def told(digests: Sequence[str]) -> str:
    """Which ranks differ from the majority; where there is none, who equals whom; nothing where all are equal."""
    ((common, count), *others) = Counter(digests).most_common()
    if not others:
        return ""
    if 2 * count > len(digests):
        odd = [str(rank) for rank, digest in enumerate(digests) if digest != common]
        return f"rank{'s' * (len(odd) > 1)} {', '.join(odd)} from the other {count}, which are equal"
    groups = [
        [str(rank) for rank, d in enumerate(digests) if d == digest] for digest in dict.fromkeys(digests)
    ]
    return f"ranks {' / '.join('+'.join(group) for group in groups)}, none of them in the majority"


class Consensus(Diagnostic):
    """√(1/W Σ ‖x_i - mean x‖²) over the W workers, every `every` steps and after the last; 0 if all are equal.

    Taken from x_i - x_0, whose digits are those that differ. Cost: a broadcast and a ring all-reduce of n elements.
    """

    def __init__(self, every: int, steps: int, strategy: Strategy, comm: Communicator):
        self.every, self.steps, self.strategy = every, steps, strategy
        self.comm = comm.Split(int(strategy.worker is None), comm.rank)
        self.apart, self.mean = (np.empty_like(strategy.params) for _ in range(2))
        self.scratch = np.empty(RING.scratch(len(self.mean), self.comm.size), self.mean.dtype)
        self.last: float | None = None

    def after(self, step: Step, logged: bool) -> dict[str, Any]:
        if self.strategy.worker is not None and (step.t % self.every == 0 or step.t == self.steps):
            self.last = self.distance()
            return {"consensus_distance": self.last}
        return {}

    def distance(self) -> float:
        params, apart, mean, workers = self.strategy.params, self.apart, self.mean, self.comm.size
        apart[...] = params
        broadcast(self.comm, apart)
        np.subtract(params, apart, out=apart)
        np.multiply(apart, 1 / workers, out=mean)
        RING.allreduce(self.comm, mean, self.scratch)
        np.subtract(apart, mean, out=apart)
        return math.sqrt(self.comm.sum([squared_norm(apart)])[0] / workers)

    def summary(self) -> dict[str, Any]:
        return {"consensus_distance": self.last}
