"""mpidp's side of `train_throughput.py`: `mpirun -n P python -m benchmarks.mpidp_worker SOCKET INDEX OPTIONS...`

The steps are those of `mpidp.train`, made by `building.build` of the same options; only the batches are fetched
beforehand, as PyTorch's are.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.cases import BATCHES, configured
from benchmarks.worker import Line, Work, serve
from mpidp.building import build
from mpidp.comm import Communicator
from mpidp.comm.world import guarded


def run(comm: Communicator, path: str, index: int, arguments: Sequence[str]) -> int:
    line = Line(path, index + comm.rank)
    with np.errstate(all="ignore"):
        serve(line, work(comm, arguments))
    return 0


def work(comm: Communicator, arguments: Sequence[str]) -> Work:
    """Build the run of these options, its model initialised and its strategy started."""
    config = configured(arguments)
    job = build(config, comm)
    model, strategy, run = job.model, job.strategy, config.run
    if comm.rank == 0:
        model.initialise(run.seed)
    strategy.start()
    batches = [job.batch(t) for t in range(1, BATCHES + 1)]

    def take(t: int) -> float:
        step, x, y, slots = batches[(t - 1) % BATCHES]
        step = replace(step, t=t, lr=job.schedule(t))
        job.numbers.gradients(step, x, y, slots)
        loss = job.numbers.loss(step)
        strategy.step(job.numbers.agreed(step))
        return loss / max(len(x), 1)

    def square(n: int) -> Callable[[], Any]:
        a, b, out = np.ones((n, n), np.float32), np.ones((n, n), np.float32), np.empty((n, n), np.float32)
        return lambda: job.products.matmul(a, b, out)

    return Work(take, comm.Barrier, square, job.products.about)


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: run(comm, sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
