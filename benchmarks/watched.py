"""One run of `mpidp.train` inside this process, silent, with what every step cost on every rank."""

import gc
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.building import Job
from mpidp.comm import Communicator
from mpidp.config import Config
from mpidp.evaluation import Scores
from mpidp.progress import Progress
from mpidp.report import Report
from mpidp.strategies import Step
from mpidp.train import train
from mpidp.workspace import Resumed, configure

FIGURES = ("seconds", "communication", "waiting", "messages", "bytes", "shared_bytes")
GRADIENTS = 5  # how often one rank alone computes a gradient to see what it takes


class Silent(Report):
    """A report that shows and writes nothing, and keeps the losses of the logged steps."""

    def __init__(self, progress: Progress):
        super().__init__(False, progress.job.steps, progress.folder, progress.report.unit)
        self.losses: list[list[float]] = []  # [step, mean loss of the batches since the last]

    def metrics(self, line: dict[str, Any]) -> None:
        self.losses.append([line["step"], line["train_loss"]])


class Watched(Progress):
    """As a run's own, but with a silent report; `steps` keeps this rank's FIGURES after each step."""

    def __init__(self, job: Job, folder: Path, resumed: Resumed | None):
        super().__init__(job, folder, resumed)
        self.report: Silent = Silent(self)
        self.steps: list[list[float]] = []
        self.scores: list[list[float]] = []  # [step, loss of the merged model on the held-out samples]

    def begin(self, done: int, scores: Scores | None) -> None:
        super().begin(done, scores)
        if scores is not None:
            self.scores.append([done, scores.loss])
        self.steps.append(self.figures())

    def figures(self) -> list[float]:
        traffic = self.job.strategy.comm.traffic
        sent = [traffic.messages, traffic.bytes, traffic.shared_bytes]
        return [self.clock.seconds, self.clock.communication, self.clock.waiting, *sent]

    def step(self, step: Step, loss: float) -> None:
        super().step(step, loss)
        self.steps.append(self.figures())

    def scored(self, t: int, scores: Scores) -> None:
        super().scored(t, scores)
        self.scores.append([t, scores.loss])

    def finish(self, scores: Scores) -> dict[str, Any]:
        self.scored(self.job.steps, scores)
        return self.summary(scores)


@dataclass
class Outcome:
    """What a run left: its summary, [rank][step][figure] in the order of FIGURES, the curves, and a gradient's time.

    The curve of the training loss is rank 0's alone.
    """

    config: Config
    summary: dict[str, Any]
    losses: list[list[float]]
    scores: list[list[float]]
    steps: np.ndarray
    gradient_seconds: float  # for one sample, by one rank while the others rest


def options_of(text: str) -> list[str]:
    """The command line of a run written in short: "averaging --period 8" is --sync averaging --period 8."""
    words = shlex.split(text)
    return ["--sync", *words] if words and not words[0].startswith("-") else words


def run(comm: Communicator, arguments: Sequence[str], folder: Path) -> Outcome:
    """Train as these options say, in `folder`; the outcome, the same on every rank.

    Raises SharedError on every rank where mpidp refuses them. No communicator, window or file of it stays in use.
    """
    apart = comm.Dup()
    config, folder, resumed = configure(apart, [*arguments, "--run-dir", str(folder)])
    made: list[Watched] = []

    def watch(*parts: Any) -> Watched:
        made.append(Watched(*parts))
        return made[0]

    with np.errstate(all="ignore"):
        summary = train(config, apart, folder, resumed, watch)
    (watched,) = made
    everyone = apart.allgather(watched.steps)
    alone = apart.bcast(gradient_seconds(watched.job) if comm.rank == 0 else None)
    outcome = Outcome(config, summary, watched.report.losses, watched.scores, np.array(everyone), alone)
    forget(watched)
    return outcome


def gradient_seconds(job: Job) -> float:
    """Seconds of a forward and a backward pass by this rank alone, for each of its samples."""
    step, x, y, slots = job.batch(1)
    times = []
    for _ in range(GRADIENTS + 1):
        began = time.perf_counter()
        job.model.gradients(x, y, 1.0, slots=slots, cuts=step.cuts, adder=job.adder)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) / max(len(x), 1)


def forget(watched: Watched) -> None:
    """Give the run's windows back once nothing of it points into them."""
    comm = watched.job.strategy.comm
    watched.job = None
    gc.collect()
    comm.Free_shared()
