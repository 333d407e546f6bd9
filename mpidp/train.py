"""Split, train, sync, merge: `mpirun -n P python -m mpidp.train`.

`train` below is the whole program. What it calls: `building.py` makes data, split, model and strategy from the
options; `strategies/` hold sync and merge; `evaluation.py` scores the merged model; `progress.py` tells of it all.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.building import Job, build
from mpidp.comm import Communicator
from mpidp.comm.world import guarded, together
from mpidp.commandline import wants_help
from mpidp.config import Config
from mpidp.device import out_of_memory
from mpidp.errors import RunError
from mpidp.evaluation import score
from mpidp.failure_options import require_supervisor
from mpidp.machine import print_anything
from mpidp.numbers import REWIND
from mpidp.numbers.rewind import go_back
from mpidp.progress import Progress
from mpidp.recovery.copies import Copies
from mpidp.recovery.survivors import survive
from mpidp.results import stopped
from mpidp.workspace import Resumed, configure, open_folder, way_on


def train(
    config: Config,
    comm: Communicator,
    folder: Path,
    resumed: Resumed | None,
    watch: Callable[[Job, Path, Resumed | None], Progress] = Progress,
    copies: Copies | None = None,
) -> dict[str, Any]:
    """Run the job that `config` describes on the ranks of `comm`; its summary, the same on every rank.

    watch: what makes the `Progress` that is told of every step. copies: from which the others go on if a rank is lost.
    """
    run = config.run
    job = build(config, comm, resumed)  # every worker has its shard of the samples, a model, and the strategy
    strategy, numbers = job.strategy, job.numbers
    job.claims = open_folder(config, folder, comm)
    progress = watch(job, folder, resumed)

    if comm.rank == 0:
        job.model.initialise(run.seed)
    strategy.start()  # replicas equal to rank 0's
    done = job.load(resumed) if resumed else 0
    progress.begin(done, None if resumed else score(job))
    if run.on_nonfinite == REWIND and not resumed:
        progress.save(0, wait=True)  # where the run can go back to before the next one
    if copies:
        copies.take(done, job, progress)

    t = done
    while comm.stop.begin(t + 1, job.steps):
        t += 1
        comm.at(t, "training")
        with progress.stepping():
            step, x, y, slots = job.batch(t)  # this rank's part of the global batch
            numbers.gradients(step, x, y, slots)  # by the model; sent while backward computes the rest
            job.prepare(t + 1)  # the next batch, on its way to a GPU
            loss = numbers.loss(step)  # a GPU is waited for here, and nowhere else
            job.lag.end()  # --slow: here a rank is late
            step = numbers.agreed(step)  # without samples, where some rank's numbers are not finite
            (strategy.step if step.total else strategy.skip)(step)  # sync
        if numbers.goes_back:
            t = go_back(job, progress)
            continue
        progress.step(step, loss)
        if run.eval_every and t % run.eval_every == 0 and t < job.steps:
            progress.scored(t, score(job))
        if job.saves(t):
            progress.save(t)  # written while training goes on
        if copies and t % copies.every == 0:
            copies.take(t, job, progress)
    if comm.stop.at is not None:
        raise stopped(progress, comm.stop.at)  # as a signal asked, with the state saved

    comm.at(phase="merging")
    strategy.merge(strategy.params)  # one model, the same bits on every rank
    return progress.finish(score(job, merge=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; the exit code."""
    print_anything()
    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda comm: run(comm, arguments))


def run(comm: Communicator, arguments: Sequence[str]) -> int:
    """The program, on the rank of `comm`; its exit code."""
    if wants_help(arguments, comm):
        return 0
    config, folder, resumed = configure(comm, arguments)
    together(comm, lambda: require_supervisor(config.run))
    with np.errstate(
        all="ignore"
    ):  # a loss that is not finite is told as one error, not as warnings of every rank
        try:
            survive(config, comm, folder, resumed, train)
        except RunError as error:
            error.add_note(way_on(folder))
            raise
        except MemoryError as error:
            if told := out_of_memory(error, comm.rank):
                raise told from None
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
