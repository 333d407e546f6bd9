"""Numbers that go bad on purpose: in the data of one sample, or in what one layer gives."""

import hashlib

import numpy as np

from mpidp.building import Job
from mpidp.comm import run_ranks
from mpidp.config import resolve
from mpidp.options import dashed
from mpidp.progress import Progress
from mpidp.strategies import STRATEGIES
from mpidp.train import train
from mpidp.workspace import configure

STEP, RANK = 5, 1  # where it happens
TINY = {"model": "mlp", "data": "synthetic-regression", "samples": 60, "features": 3, "hidden": "6", "dropout": 0.1,
        "batch-size": 12, "steps": 9, "log-every": 4, "lr": 0.02, "optimizer": "sgd", "momentum": 0.9}  # fmt: skip


def options_of(name: str, case: int) -> dict:
    """A strategy's case, as a user says it; by a route that adds in one order."""
    strategy = STRATEGIES[name]
    own = {dashed(option): value for option, value in strategy.cases[case].items()}
    route = {"collective": "ring"} if strategy.by_route(strategy.Options(**strategy.cases[case])) else {}
    return {"sync": name} | own | route


def poison_a_sample(monkeypatch, step=STEP, rank=RANK, value=np.nan, place=-1):
    """Have a number of the last sample of the rank's batch be `value` in this step."""
    batch = Job.batch

    def bad(job, t):
        found, x, y, slots = batch(job, t)
        if t == step and job.comm.rank == rank:
            x = x.copy()
            x[place, 0] = value
        return found, x, y, slots

    monkeypatch.setattr(Job, "batch", bad)


class Told(Progress):
    """A progress that notes what it is told: the replica's bits after each step, and the sentences for the user."""

    def __init__(self, *args):
        super().__init__(*args)
        self.bits, self.said = {}, []
        say = self.job.numbers.say

        def note(text):
            self.said.append(text)
            say(text)

        self.job.numbers.say = note

    def step(self, step, loss):
        super().step(step, loss)
        self.bits[step.t] = hashlib.sha256(self.job.strategy.params.tobytes()).hexdigest()


def run(ranks, folder, given, resume=False, watch=Progress):
    """The train program with ranks as threads: (summary, what `watch` made, on every rank)."""
    made = [None] * ranks

    def body(comm):
        def watching(*args):
            made[comm.rank] = watch(*args)
            return made[comm.rank]

        with np.errstate(all="ignore"):
            if resume:
                words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
                config, path, resumed = configure(comm, [*words, "--resume", "--run-dir", str(folder)])
                return train(config, comm, path, resumed, watching)
            return train(resolve(given | {"run-dir": str(folder)}, {}), comm, folder, None, watching)

    return run_ranks(ranks, body)[0], made
