"""Numbers that go bad on purpose: in the data of one sample, or in what one layer gives."""

import hashlib

import numpy as np
import pytest

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
    """Have a number of the last sample of the rank's batch be `value` in this step. rank: None is any that has one."""
    batch = Job.batch

    def bad(job, t):
        found, x, y, slots = batch(job, t)
        if t == step and (job.comm.rank == rank or (rank is None and len(x))):
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


def run_until(step, *args):
    """`run`, ended after this step on every rank, and not before its checkpoints are on disk."""

    class Stopped(Progress):
        def step(self, made, loss):
            super().step(made, loss)
            if made.t == step:
                self.checkpoints.finish()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*args, watch=Stopped)


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


def poison_a_layer(monkeypatch, tensor, where, steps=(STEP,), rank=RANK, place=0):
    """Have the layer whose first tensor this is give a number that is not finite in these steps.

    where: of its output ("forward"), of the gradient of its input ("backward") or of the tensor ("gradient").
    """
    batch, poisoned = Job.batch, {}

    def bad(job, t):
        named = [l for l in job.model.layers if l.parameters() and l.parameters()[0].name == tensor]
        layer = named[-1]  # the innermost, where one lies in another
        if t in steps and job.comm.rank == rank:
            poisoned.setdefault(layer, type(layer))
            kind = poisoned[layer]
            layer.__class__ = type(
                kind.__name__, (kind,), {where if where != "gradient" else "backward": spoilt}
            )
        elif layer in poisoned:
            layer.__class__ = poisoned.pop(layer)
        return batch(job, t)

    def spoilt(layer, x, *more):
        y = getattr(poisoned[layer], "forward" if where == "forward" else "backward")(layer, x, *more)
        target = layer.parameters()[0].grad if where == "gradient" else y
        target.reshape(-1)[place] = np.inf
        return y

    monkeypatch.setattr(Job, "batch", bad)
