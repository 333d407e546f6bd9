"""The loop around training that goes on when ranks are lost (`--on-failure shrink`)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpidp import checkpoint
from mpidp.building import Job
from mpidp.comm import Communicator
from mpidp.comm.endings import say
from mpidp.comm.world import SharedError, together
from mpidp.config import Config
from mpidp.data import Data
from mpidp.errors import Interrupted, RankLost, RunError, Stopped, UserError
from mpidp.failure_options import SHRINK
from mpidp.progress import Progress
from mpidp.recovery.agreement import Agreement
from mpidp.recovery.copies import Copies, Copy, Survived
from mpidp.strategies import STRATEGIES
from mpidp.strategies.state import Saved, StateLost
from mpidp.workspace import Resumed, from_rank_0, refuse_another_run

PATIENCE = 2.0  # seconds

Train = Callable[..., dict[str, Any]]


class Recovered(Resumed):
    """The copy in memory that those who are left go on from."""

    def __init__(self, path: Path, copy: Copy, ranks: int, data: Data):
        # As of a run of as many ranks: it keeps its route.
        super().__init__(path, copy.facts | {"step": copy.step, "ranks": ranks}, data=data)
        self.copy = copy

    def saved(self, comm: Communicator) -> Saved:
        return Survived(comm, self.copy)


class Remaining(Progress):
    """The progress of those who are left: what was counted before goes on."""

    def __init__(self, losses: list[dict[str, Any]], before: Progress | None, *args: Any):
        super().__init__(*args)
        self.losses, self.before_them = losses, before
        if before is None:
            return
        before.report.end()
        self.started, self.resumed_from, self.ranks_before = (
            before.started,
            before.resumed_from,
            before.ranks_before,
        )
        self.clock, self.samples = before.clock, before.samples
        self.clock.lap()
        self.job.strategy.comm.traffic.take(before.job.strategy.comm.traffic)

    def begin(self, done, scores):
        """Say what became of the others."""
        self.before = self.before if scores is None else scores.loss
        self.report.keep_metrics_until(done, [*self.left_unwritten(done), self.last])
        news = [loss for loss in self.losses if "goes_on_after" not in loss]
        for loss in news:
            loss["goes_on_after"] = done
        ranks = self.job.comm.size
        left = f"{ranks} rank{'s go' if ranks > 1 else ' goes'} on after step {done}"
        self.report.say(f"{'; '.join(loss['how'] for loss in news)}; the other {left}")
        self.report.begin(done)

    def left_unwritten(self, done: int) -> list[dict[str, Any]]:
        """Logged steps up to `done` that a lost rank 0 may not have written: what those who are left know of them."""
        recent = self.before_them.recent if self.before_them else ()
        ours = {line["step"]: part for line, part in recent if line and line["step"] <= done}
        everyone = self.job.comm.allgather([[step, part] for step, part in ours.items()])
        parts = [dict(theirs) for theirs in everyone]
        lines = [line for line, _ in recent if line and all(line["step"] in theirs for theirs in parts)]
        return [self.completed(line, [theirs[line["step"]] for theirs in parts]) for line in lines]

    def summary(self, scores):
        return super().summary(scores) | {"losses": self.losses}


class Survivors:
    """A job from which ranks may be lost: `train` is run again with those who are left, from where all of them were.

    Whatever training left unfinished stays as it is, in memory that MPI may still write into.
    """

    def __init__(self, world: Communicator, config: Config, folder: Path):
        self.world, self.config, self.folder = world, config, folder
        self.agreement = Agreement(world.control)
        self.copies = Copies(config.run.copy_every)
        self.ranks = list(range(world.size))
        self.losses: list[dict[str, Any]] = []
        self.progress: Progress | None = None
        self.left_behind: list[Any] = []

    def train(self, train: Train, resumed: Resumed | None) -> None:
        """Run `train` to its end. Raises RunError where those who are left cannot go on, and Stopped."""
        comm, start = self.world, resumed
        gone: StateLost | None = None
        while True:
            try:
                if self.smaller():
                    reached = self.gather(resumed)
                    if reached is None:  # the others have finished
                        return
                    comm, start = reached
                elif gone:
                    start = self.from_disk(comm, gone)
                gone = None
                train(self.config, comm, self.folder, start, self.watch, self.copies)
                return
            except StateLost as error:
                gone = error
            except (Stopped, Interrupted):
                raise
            except SharedError as error:  # which all of them have raised
                if not self.losses:
                    raise
                raise RunError(f"{self.how()}, and the others cannot go on: {error}") from None
            except Exception as error:
                # An MPI library may complain of a lost rank sooner than the control plane knows of it.
                if not isinstance(error, RankLost) and not self.smaller(PATIENCE):
                    raise
                self.left_behind += [error, self.progress]

    def smaller(self, seconds: float = 0.0) -> bool:
        """Whether a rank is lost, or is within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (lost := len(self.world.control.alive()) < len(self.ranks)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return lost

    def gather(self, resumed: Resumed | None) -> tuple[Communicator, Resumed | None] | None:
        """The communicator of those who are left, and what they go on from; None where they have finished."""
        from mpidp.comm.survivors import gather

        control, run = self.world.control, self.config.run
        reached = self.agreement.reach(self.copies.newest())
        if reached is None:
            return None
        ranks, key = reached
        lost = sorted(set(self.ranks) - set(ranks))
        how = "; ".join(control.lost[rank] for rank in lost)
        self.losses.append({"ranks": lost, "how": how, "at_step": control.step})
        self.ranks = ranks
        comm = gather(self.world, ranks)
        copy = self.copies.choose(key)
        run.slow = None  # it names ranks by their old numbers
        run.noise_scale = run.noise_scale and len(ranks) > 1
        return comm, Recovered(self.folder, copy, len(ranks), self.progress.job.data) if copy else resumed

    def from_disk(self, comm: Communicator, error: StateLost) -> Resumed:
        """The last checkpoint. Raises RunError where there is none."""
        folder, skip = self.folder / "checkpoints", self.config.run.skip_damaged
        if not from_rank_0(comm, lambda: bool(checkpoint.complete(folder))):
            raise RunError(
                f"{self.how()}: {error}; its neighbour, which had a copy, is lost too, and there is no checkpoint: "
                "start the run again, with --checkpoint-every N"
            )
        found = checkpoint.find(comm, folder, skip, lambda *of: refuse_another_run(*of, self.config))
        return Resumed(*found, data=self.progress.job.data)

    def how(self) -> str:
        """What has happened so far, for a message."""
        return "; ".join(loss["how"] for loss in self.losses)

    def watch(self, job: Job, folder: Path, start: Resumed | None) -> Progress:
        """The progress of a job, or of the rest of one."""
        if self.losses:
            self.progress = Remaining(self.losses, self.progress, job, folder, start)
        else:
            self.progress = Progress(job, folder, start)
        return self.progress


def survive(config: Config, comm: Communicator, folder: Path, resumed: Resumed | None, train: Train) -> None:
    """`train`, and where `--on-failure shrink` says so again with those who are left when ranks are lost.

    Does not return then: a job that may have lost ranks ends without MPI's own end, which would wait for them.
    """
    if config.run.on_failure != SHRINK:
        train(config, comm, folder, resumed)
        return
    together(comm, lambda: require_able(config, comm))
    from mpidp.comm.survivors import leave

    comm.control.on_failure(SHRINK)
    survivors, code = Survivors(comm, config, folder), 0
    try:
        survivors.train(train, resumed)
    except Stopped as stopped:
        code = 3
        if survivors.ranks[0] == comm.control.rank:
            say(str(stopped))
    survivors.agreement.finish()
    leave(comm.control, code)


def require_able(config: Config, comm: Communicator) -> None:
    """Raise UserError where this job could not go on without one of its ranks."""
    run, what = config.run, f"--on-failure {SHRINK}"
    if comm.size == 1:
        raise UserError(
            f"{what}: of 1 rank none is left to go on: start mpirun -n 2 or more, or leave it out"
        )
    from mpidp.comm.survivors import unable

    if why := unable():
        raise UserError(f"{what}: {why}")
    if comm.control is None:
        raise UserError(f"{what}: the ranks of this job cannot tell whether one is lost")
    if run.reproducible and comm.size > 2:
        raise UserError(
            f"{what}: --reproducible {run.reproducible} cuts each batch into {run.reproducible} micro-shards, which "
            f"{comm.size - 1} ranks could not share evenly: leave one of them out"
        )
    try:
        STRATEGIES[run.sync].count_workers(comm.size - 1, config.sync)
    except UserError as error:
        raise UserError(f"{what}: with one rank fewer than these {comm.size}: {error}") from None
