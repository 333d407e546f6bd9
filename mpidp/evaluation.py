"""The merged model on the held-out samples, all workers at it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpidp.building import Job
from mpidp.comm import Communicator
from mpidp.data import Dataset
from mpidp.nn import Model
from mpidp.nn.accumulation import on_grid
from mpidp.strategies import Strategy


@dataclass(frozen=True)
class Scores:
    """Means over the whole validation set, each sample once; accuracy is None where the notion is void."""

    loss: float
    accuracy: float | None


def score(job: Job, merge: bool = True) -> Scores:
    """What the one merged model scores now; training goes on from where it was. merge=False: it is merged already."""
    strategy = job.strategy
    run = job.config.run
    batch = max(1, run.batch_size // job.split.workers)
    batch = min(batch, run.micro_batch or batch)  # what is asked for to save memory in training saves it here
    with merged(strategy) if merge else contextlib.nullcontext():
        return evaluate(job.model, job.data.validation, job.comm, job.shards, job.split.workers, batch)


def evaluate(model: Model, data: Dataset, comm: Communicator, shards: range, of: int, batch: int) -> Scores:
    """Shard s of S samples is [s N // S, (s + 1) N // S), scored `batch` at a time by the rank whose it is.

    Sums and counts are added over ranks, losses and hits `on_grid`: the same bits whoever scores which shard.
    Cost: one gather of four numbers.
    """
    n = len(data)
    loss = correct = count = judged = 0.0
    for mine in (range(shard * n // of, (shard + 1) * n // of) for shard in shards):
        for start in mine[::batch]:
            x, y = data.batch(np.arange(start, min(start + batch, mine.stop)))
            part_loss, part_correct = model.evaluate(x, y)
            loss += on_grid(part_loss)
            count += len(x)
            if part_correct is not None:
                correct += on_grid(part_correct)
                judged += len(x)
    loss, correct, count, judged = comm.sum([loss, correct, count, judged])
    return Scores(loss / count, correct / judged if judged else None)


@contextlib.contextmanager
def merged(strategy: Strategy) -> Iterator[None]:
    """Have the one merged model in `params` for a while, then this rank's own again."""
    if strategy.replicated:
        yield
        return
    params = strategy.params
    own, one = params.copy(), params.copy()
    traffic, seconds = strategy.comm.traffic.copy(), strategy.seconds_communication
    strategy.merge(one)
    # What it costs to look at the model is no part of what it costs to train it.
    strategy.comm.traffic, strategy.seconds_communication = traffic, seconds
    params[...] = one
    try:
        yield
    finally:
        params[...] = own
