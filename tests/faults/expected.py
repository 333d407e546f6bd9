"""What a small run must come to, whoever was lost on its way: the same steps made on threads of one process.

A run that nothing happens to is recorded: what every rank has after each step at which ranks make copies. From the
record of one step those who are left go on: what they come to is what a run must come to that lost these ranks and
went on after that step, to the bit. Nothing of `mpidp.recovery` is used for it: neither its copies, nor how ranks agree
on one and hand parts of it to each other. What the strategies make of the state of fewer ranks is theirs (`regroup`),
and has tests of its own (`tests/regrouping.py`, `tests/strategies/test_regrouping.py`).
"""

import contextlib
import functools
import io
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.building import Job
from mpidp.comm import Communicator, run_ranks
from mpidp.progress import Progress
from mpidp.train import train
from mpidp.workspace import Resumed, configure

ALONE = ("averaging", "streaming", "elastic", "gossip", "none")
"""Strategies whose ranks send nobody a copy of what they alone have: a lost one's is lost with it."""

LATE = 0.004  # seconds that a late rank takes for a step, in which others make several
ORDERS = 16

Arrays = dict[str, np.ndarray]
Ranks = tuple[int, ...]
Summary = dict[str, Any]


class Record:
    """Takes the place of the copies (`recovery.copies.Copies`): the state of every rank of a run on threads."""

    def __init__(self, every: int, ranks: int):
        self.every = every
        self.states: dict[int, list[Arrays]] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.ranks = ranks

    def take(self, t: int, job: Job, progress: Progress) -> None:
        arrays = {name: array.copy() for name, array in job.strategy.saved(whole=True).items()}
        self.states.setdefault(t, [{}] * self.ranks)[job.comm.rank] = arrays
        if job.comm.rank == 0:
            self.facts[t] = job.facts() | {"step": t, "validation_loss_before": progress.before}
        job.comm.Barrier()


class Left(Resumed):
    """What is left of a recorded state without the ranks that are lost."""

    def __init__(self, record: Record, step: int, lost: Ranks, gone: Ranks):
        super().__init__(Path(), record.facts[step] | {"ranks": record.ranks - len(lost)})
        self.states, self.ranks, self.lost = record.states[step], record.ranks, gone

    def saved(self, comm: Communicator) -> "Left":
        return self

    def of(self, rank: int) -> Arrays:
        assert rank not in self.lost
        return {name: array.copy() for name, array in self.states[rank].items()}


class Expected:
    """The summaries of runs with these options, of which `lost` ranks are lost after a step, or none ever is."""

    def __init__(self, sync: str, ranks: int, arguments: list[str], copy_every: int | None = None):
        self.sync, self.ranks, self.arguments, self.copy_every = sync, ranks, arguments, copy_every
        if copy_every:
            self.arguments = [*arguments, "--on-failure", "shrink", "--copy-every", str(copy_every)]

    @functools.cache  # noqa: B019 - lives as long as the tests
    def undisturbed(self, order: int | None = None) -> tuple[Summary, Record]:
        """Of a run that nothing happens to, and its record. order: draws who is late when; None: nobody is."""
        record = Record(self.copy_every or 0, self.ranks)
        return self.run(self.ranks, None, order, record), record

    @functools.cache  # noqa: B019
    def after(self, lost: Ranks, step: int, order: int | None = None) -> Summary:
        """Of a run that lost these ranks and went on after this step."""
        if not lost:
            return self.undisturbed(order)[0]
        left = Left(self.undisturbed(order)[1], step, lost, lost if self.sync in ALONE else ())
        return self.run(self.ranks - len(lost), left, order)

    @functools.cache  # noqa: B019
    def fewer(self) -> Summary:
        """Of a run without one of the ranks from its beginning."""
        return self.run(self.ranks - 1, None)

    def losses(self, lost: Ranks, step: int) -> tuple[float, float]:
        """The least and the greatest validation loss where they depend on who is late.

        From runs in which ranks that are drawn anew for every two steps are late, so that the others are as far ahead
        as they may be. Such a sample has not the least and the greatest of all orders: its range is taken once more
        on either side.
        """
        found = [self.after(lost, step, order)["validation_loss"] for order in range(ORDERS)]
        least, most = min(found), max(found)
        return least - (most - least), most + (most - least)

    def run(
        self, ranks: int, resumed: Resumed | None, order: int | None = None, record: Record | None = None
    ) -> Summary:
        with tempfile.TemporaryDirectory(prefix="mpidp-expected-") as folder:
            arguments = [*self.arguments, "--run-dir", f"{folder}/run"]

            def watch(job: Job, path: Path, start: Resumed | None) -> Progress:
                batch = job.batch

                def after_a_while(t: int) -> Any:
                    draw = random.Random(f"{order} {job.comm.rank} {t // 2}")
                    time.sleep(LATE if order is not None and draw.random() < 0.5 else 0)
                    return batch(t)

                job.batch = after_a_while
                return Progress(job, path, start)

            def body(comm: Communicator) -> Summary:
                config, path, _ = configure(comm, arguments)
                return train(config, comm, path, resumed, watch, record if self.copy_every else None)

            with contextlib.redirect_stdout(io.StringIO()):
                return run_ranks(ranks, body)[0]
