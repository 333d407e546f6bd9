"""How long does training stand still for a checkpoint: written while it waits, and written in the background?

    mpirun -n 2 python -m benchmarks.checkpoint_pause [--rounds 5] [options of mpidp.train]

In turns, in one run of the `small` GPT (6 layers, 384 wide, or as the options say): a checkpoint as it was once made,
with all ranks waiting (safetensors' own writer, sync, a second reading for the hash, two meetings), and one in the
background. Told are medians over the rounds: the pause of the slowest rank, and the step that follows a checkpoint in
the background, while it is written, against steps with nothing beside them.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.environment import environment
from benchmarks.watched import Watched
from mpidp.building import Job
from mpidp.checkpoint.tensors import sha256, sync
from mpidp.comm import Communicator
from mpidp.comm.world import guarded
from mpidp.strategies import Step
from mpidp.train import train
from mpidp.workspace import Resumed, configure

SMALL = ["--layers", "6", "--heads", "6", "--width", "384", "--context", "256", "--batch-size", "8"]
EVERY = 6  # steps from one checkpoint to the next: time to be written


class Alternating(Watched):
    """Writes every other checkpoint as it was done before; `pauses_before`, `pauses` and the steps' seconds by kind."""

    def __init__(self, job: Job, folder: Path, resumed: Resumed | None):
        super().__init__(job, folder, resumed)
        self.pauses_before: list[float] = []
        self.pauses: list[float] = []
        self.beside: list[float] = []
        self.undisturbed: list[float] = []
        self.follows = False  # the next step a checkpoint in the background
        self.ended_at = time.perf_counter()

    def step(self, step: Step, loss: float) -> None:
        super().step(step, loss)
        now = time.perf_counter()
        if step.t > 2:  # the first ones find memory that was never touched
            (self.beside if self.follows else self.undisturbed).append(now - self.ended_at)
        self.ended_at, self.follows = now, False

    def save(self, t: int, wait: bool = False) -> None:
        self.job.comm.Barrier()
        began = time.perf_counter()
        if (t // EVERY) % 2:
            write_as_before(self.job, self.folder)
            self.pauses_before.append(time.perf_counter() - began)
        else:
            super().save(t)
            self.pauses.append(time.perf_counter() - began)
            self.follows = True
        self.ended_at = time.perf_counter()


def write_as_before(job: Job, folder: Path) -> None:
    comm, arrays = job.comm, job.strategy.saved()
    path = folder / f"before-{comm.rank}"
    comm.bcast(None)
    if arrays:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        sync(path)
        sha256(path)
    comm.allgather(None)
    comm.bcast(None)


def body(comm: Communicator, arguments: Sequence[str]) -> int:
    rounds, given = 5, list(arguments)
    if given[:1] == ["--rounds"]:
        rounds, given = int(given[1]), given[2:]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = comm.bcast(str(Path(folder) / "run"))
        length = ["--steps", str(2 * rounds * EVERY + 3), "--checkpoint-every", str(EVERY)]
        config, path, _ = configure(comm, [*SMALL, *length, *given, "--run-dir", run_dir])
        made: list[Alternating] = []

        def watch(*parts: Any) -> Alternating:
            made.append(Alternating(*parts))
            return made[0]

        train(config, comm, path, None, watch)
        made[0].checkpoints.finish()
        tell(made[0], comm)
        comm.Barrier()
    return 0


def tell(run: Alternating, comm: Communicator) -> None:
    ours = [run.pauses_before, run.pauses, run.undisturbed, run.beside]
    everyone = comm.allgather(ours)
    saved = sum(comm.allgather(sum(array.nbytes for array in run.job.strategy.saved().values())))
    if comm.rank > 0:
        return
    waiting, background = (
        [max(each) for each in zip(*(r[i] for r in everyone), strict=True)] for i in (0, 1)
    )
    step, beside = median(run.undisturbed), median(run.beside)
    print(
        f"{run.job.model.size:,} parameters, {comm.size} ranks, {saved / 2**20:.0f} MiB; {environment()['cpu']}"
    )
    print(f"a step: {1000 * step:.0f} ms; while a checkpoint is written: {1000 * beside:.0f} ms")
    for name, pauses in (
        ("written while training waits", waiting),
        ("written in the background", background),
    ):
        spread = f"{1000 * min(pauses):.1f} to {1000 * max(pauses):.1f}"
        print(
            f"{name}: a pause of {1000 * median(pauses):.1f} ms ({spread}), {median(pauses) / step:.3f} steps"
        )
    print(f"ratio of the pauses: {median(waiting) / median(background):.1f}")


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: body(comm, sys.argv[1:])))
