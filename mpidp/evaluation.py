"""The merged model on the held-out samples, all workers at it."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpidp.building import Job
from mpidp.comm import Communicator
from mpidp.data import Dataset
from mpidp.errors import RunError
from mpidp.nn import Model
from mpidp.nn.accumulation import on_grid
from mpidp.numbers import where
from mpidp.strategies import Strategy


@dataclass(frozen=True)
class Scores:
    """Means over the whole validation set, each sample once; accuracy is None where the notion is void."""

    loss: float
    accuracy: float | None


def score(job: Job, merge: bool = True) -> Scores:
    """What the one merged model scores now; training goes on from where it was. merge=False: it is merged already."""
    job.comm.at(phase="evaluating")
    with merged(job.strategy) if merge else contextlib.nullcontext():
        return evaluate(
            job.model, job.data.validation, job.comm, job.shards, job.split.workers, batch_size(job)
        )


def batch_size(job: Job) -> int:
    """How many samples are scored at a time: what is asked for to save memory in training saves it here."""
    run = job.config.run
    batch = max(1, run.batch_size // job.split.workers)
    return min(batch, run.micro_batch or batch)


def evaluate(model: Model, data: Dataset, comm: Communicator, shards: range, of: int, batch: int) -> Scores:
    """Shard s of S samples is [s N // S, (s + 1) N // S), scored `batch` at a time by the rank whose it is.

    Sums and counts are added over ranks, losses and hits `on_grid`: the same bits whoever scores which shard.
    Cost: one gather of four numbers.
    """
    loss = correct = count = judged = 0.0
    for indices in parts(len(data), shards, of, batch):
        x, y = data.batch(indices)
        part_loss, part_correct = model.evaluate(x, y)
        loss += on_grid(part_loss)
        count += len(x)
        if part_correct is not None:
            correct += on_grid(part_correct)
            judged += len(x)
    loss, correct, count, judged = comm.sum([loss, correct, count, judged])
    return Scores(loss / count, correct / judged if judged else None)


def parts(n: int, shards: range, of: int, batch: int) -> Iterator[np.ndarray]:
    """The indices of these shards' samples, so many at a time."""
    for mine in (range(shard * n // of, (shard + 1) * n // of) for shard in shards):
        for start in mine[::batch]:
            yield np.arange(start, min(start + batch, mine.stop))


def require_finite(job: Job, scores: Scores, when: str) -> None:
    """Raise RunError, on all ranks, where the validation loss is infinite or no number."""
    if not math.isfinite(scores.loss):
        texts = job.comm.allgather(first_bad(job))
        first = next((f": first {text} on rank {rank}" for rank, text in enumerate(texts) if text), "")
        raise RunError(f"the validation loss {when} is not finite{first}: lower --lr, or set --clip")


def require_good(job: Job, scores: Scores) -> None:
    """Raise RunError, on all ranks, where the merged model is none to keep: its validation loss, or any parameter."""
    require_finite(job, scores, "of the merged model")
    if bad := where.bad_parameters(job.model):
        raise RunError(
            f"the merged model is not finite: {bad}, since the last update: lower --lr, or set --clip"
        )


def first_bad(job: Job) -> str:
    """What is the first that is not finite when this rank scores its own model on its part of the held-out samples."""
    if bad := where.bad_parameters(job.model):
        return bad
    data = job.data.validation
    for indices in parts(len(data), job.shards, job.split.workers, batch_size(job)):
        if bad := where.first_bad_score(job.model, *data.batch(indices)):
            return f"{bad}, of held-out samples {indices[0]} to {indices[-1]}"
    return ""


@contextlib.contextmanager
def merged(strategy: Strategy) -> Iterator[None]:
    """Have the one merged model in `params` for a while, then this rank's own again."""
    if strategy.replicated:
        yield
        return
    strategy.drain()  # what this sends and takes is of the training, whenever it is waited for
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
