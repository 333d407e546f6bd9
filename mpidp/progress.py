"""How far a run is, what it has cost, and what it tells at its end."""

import contextlib
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpidp.arrays import to_host
from mpidp.building import Job
from mpidp.checkpoint import Checkpoints, checkpoint_figures
from mpidp.comm.world import together
from mpidp.compression import PLAIN
from mpidp.errors import Interrupted, RunError
from mpidp.evaluation import Scores, require_finite, require_good
from mpidp.numbers import REWIND
from mpidp.pace import Clock, Laggards, interval
from mpidp.report import Report
from mpidp.results import sample, weight_error, write
from mpidp.stragglers import by_rank
from mpidp.strategies import Step
from mpidp.tally import Tally
from mpidp.workspace import Resumed

LAST_CHECKPOINT = 30.0
"""Seconds that a rank that fails takes to have on disk what it was writing, before it ends the others."""

RECENT = 8
Logged = tuple[dict[str, Any], list[float]]

LONG_WAIT = 1.0  # seconds for a checkpoint to be written, of which the user is told


class Progress:
    """Losses, times and traffic of a run; rank 0 shows and writes them."""

    def __init__(self, job: Job, folder: Path, resumed: Resumed | None):
        self.job, self.folder = job, folder
        self.tokens = job.data.schema.inputs[0] if job.data.schema.kind == "tokens" else None
        self.report = Report(job.comm.rank == 0, job.steps, folder, "tokens" if self.tokens else "samples")
        self.started = time.perf_counter()
        self.clock = Clock()
        self.laggards = Laggards(job.comm, job.strategy.workers)
        self.samples = 0  # that this rank has worked on in the clock's seconds
        self.loss, self.count = 0.0, 0  # of its samples since the last logged step
        self.tally = Tally(job.comm)
        job.numbers.say = self.report.say
        self.saved = 0  # the last step of which there is to be a checkpoint
        self.lines: deque[dict[str, Any]] = deque()  # logged steps of which some rank's part is still to come
        self.logged: Logged = ({}, [])  # the last logged step, and this rank's part
        self.recent = deque(
            [self.logged], RECENT
        )  # and the last few, which a lost rank 0 may not have written
        self.skipped = resumed.skipped if resumed else ()
        keep, damaged = job.config.run.keep_checkpoints or 2, [damage.path for damage in self.skipped]
        self.checkpoints = Checkpoints(job.comm, folder / "checkpoints", keep, damaged, job.numbers.unfit)
        self.warned = False  # of a wait for a checkpoint
        # What a run knows of itself and hands on to the one that resumes it.
        known = resumed.manifest if resumed else {}
        self.resumed_from: int | None = known.get("step")
        self.ranks_before: int | None = known.get("ranks")
        self.before: float | None = known.get("validation_loss_before")
        self.last: dict[str, Any] = known.get("last", {})

    def begin(self, done: int, scores: Scores | None) -> None:
        """Say what runs; `scores`: of the model before the first step, where this is the run's beginning."""
        job, config = self.job, self.job.config
        if scores is not None:
            self.before = scores.loss
        self.report.keep_metrics_until(done, [self.last])
        ranks = f"{job.comm.size} rank{'s' * (job.comm.size > 1)}"
        if job.strategy.workers < job.comm.size:
            ranks += f" ({job.strategy.workers} workers, {job.comm.size - job.strategy.workers} servers)"
        route = f" by {job.route}" if job.route else ""
        say = self.report.say
        if config.run.compress != PLAIN:
            route += f", as {config.run.compress}"
        say(
            f"{config.run.model}, {job.model.size:,} parameters, on {config.run.data} "
            f"({len(job.data.train):,} samples to train, {len(job.data.validation):,} held out); "
            f"{ranks}, {config.run.sync}{route}; {job.products.about}{job.strategy.comm.about}"
        )
        for damage in self.skipped:
            say(
                f"warning: {damage.path} is damaged ({damage.why}): skipped, and kept as {damage.path.name}.damaged"
            )
        begins = f"goes on after step {done}" if done else f"validation loss {self.before:.4f}"
        if self.ranks_before not in (None, job.comm.size):
            begins += f", saved by {self.ranks_before} ranks"
        epochs = job.steps / job.split.steps_per_epoch
        say(
            f"{job.steps} steps of {config.run.batch_size} samples ({epochs:.3g} epochs), into {self.folder}; {begins}"
        )
        self.report.begin(done)
        if config.run.checkpoint_every:
            self.checkpoints.prepare(job.strategy.saved())

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Count the time inside as that of training."""
        try:
            with self.clock.ticking(self.job.strategy):
                yield
        except Exception as error:
            if not isinstance(error, Interrupted):  # which ends at once
                self.checkpoints.leave(min(LAST_CHECKPOINT, self.job.comm.timeout))
            raise

    def step(self, step: Step, loss: float) -> None:
        """A step is done, or was left out; `loss`: summed over this rank's samples."""
        self.loss += loss if step.total else 0.0
        self.count += step.samples
        self.samples += step.samples
        self.report.advance(step.t)
        every = self.job.config.run.log_every
        logged = step.t % every == 0 or self.job.saves(step.t) or step.t == self.job.steps
        if logged:
            self.log(step)
        self.tell()
        self.report.figures(step.t, self.job.diagnostics.after(step, logged))

    def back(self, manifest: dict[str, Any]) -> None:
        """The run has gone back to the checkpoint of this manifest."""
        self.tell(wait=True)
        self.loss, self.count, _ = 0.0, 0, self.clock.lap()
        self.last = manifest["last"]
        self.report.keep_metrics_until(manifest["step"], [self.last])
        self.report.advance(manifest["step"])

    def log(self, step: Step) -> None:
        """Of all samples since the last logged step: this rank's part of their mean loss; and where its time went."""
        part = [self.loss, self.count, *self.clock.lap()]
        self.tally.add(part)
        self.loss, self.count = 0.0, 0
        line = {
            "step": step.t,
            "epoch": round(step.t / self.job.split.steps_per_epoch, 4),
            "train_loss": None,
            "lr": step.lr,
            "seconds": round(self.clock.seconds, 6),
            "samples_per_second": None,
            **({"tokens_per_second": None} if self.tokens else {}),
        }
        self.logged = line | self.job.strategy.report() | self.job.numbers.report(), part
        self.lines.append(self.logged[0])
        self.recent.append(self.logged)

    def tell(self, wait: bool = False) -> None:
        """Write the lines of which every rank's part is here, and what became of checkpoints; wait: all up to now."""
        for parts in self.tally.complete(wait):
            self.last = self.completed(self.lines.popleft(), parts)
            self.report.metrics(self.last)
            if late := self.laggards.seen(self.last["seconds_compute_by_rank"]):
                self.report.say(late)
        for t, error in self.checkpoints.ended():
            if error is not None:
                self.report.say(f"warning: no checkpoint at step {t}: {error}; training goes on")

    def completed(self, line: dict[str, Any], parts: Sequence[Sequence[float]]) -> dict[str, Any]:
        """The line of a logged step with what all ranks' parts come to."""
        losses, counts, *_ = zip(*parts, strict=True)
        count, (rate, of_ranks) = sum(counts), interval(counts, [part[2:] for part in parts])
        figures = {"train_loss": sum(losses) / count if count else None, "samples_per_second": round(rate, 3)}
        if self.tokens:
            figures["tokens_per_second"] = round(rate * self.tokens, 3)
        return line | figures | of_ranks

    def scored(self, t: int, scores: Scores) -> None:
        """An evaluation on the way."""
        self.tell(wait=True)
        try:
            require_finite(self.job, scores, f"at step {t}")
        except RunError as error:
            if self.job.config.run.on_nonfinite != REWIND:
                raise
            return self.report.say(f"warning: {error}")
        line = {"step": t, "validation_loss": scores.loss}
        if scores.accuracy is not None:
            line["accuracy"] = scores.accuracy
        self.report.evaluation(line)

    def save(self, t: int, wait: bool = False) -> str | None:
        """Have a checkpoint of step t, which is logged, written while training goes on.

        wait: return when it is on disk, with None, or, on every rank, why it is not there.
        """
        self.saved = t
        self.job.comm.at(phase="saving")
        self.tell(
            wait=True
        )  # lines up to here are written before the checkpoint counts: all ranks have come to it
        line, part = self.logged
        known = self.job.facts() | {"validation_loss_before": self.before}

        def facts(parts: Sequence[Sequence[float]]) -> dict[str, Any]:
            return known | {"last": self.completed(line, parts) if line else {}}  # {} before the first step

        waited = self.checkpoints.save(t, self.job.strategy.saved(), facts, part)
        if waited > LONG_WAIT and not (wait or self.warned):
            self.warned = True
            self.report.say(
                f"warning: at step {t} training waited {waited:.1f} s for the checkpoint before to be written: with a "
                "larger --checkpoint-every it need not"
            )
        return self.checkpoints.finish() if wait else None

    def finish(self, scores: Scores) -> dict[str, Any]:
        """Write the merged model and the summary; the summary. Raises RunError where the model is not finite."""
        job, config = self.job, self.job.config
        job.comm.at(phase="finishing")
        self.checkpoints.settle()
        self.tell(wait=True)
        self.report.end()
        require_good(job, scores)
        summary = self.summary(scores)
        together(job.comm, lambda: write(job, self.folder, summary) if job.comm.rank == 0 else None)
        if job.comm.rank == 0:
            is_text = job.data.tokenizer is not None and self.tokens
            self.report.summary(summary, sample(job) if is_text else None)
        self.report.last_words(json.dumps(summary) if config.run.json else None)
        job.comm.Barrier()  # no rank ends, and so ends the job for some launchers, before the model is written
        for claim in job.claims:
            claim.release()
        return summary

    def summary(self, scores: Scores) -> dict[str, Any]:
        """All figures of the run, the same on every rank."""
        job, run, strategy = self.job, self.job.config.run, self.job.strategy
        traffic = strategy.comm.traffic
        ours = [
            traffic.messages,
            traffic.bytes,
            (traffic.shared_bytes, traffic.staged_bytes),
            self.clock.seconds,
            self.clock.communication,
            self.clock.waiting,
            self.samples,
            self.last.get("train_loss"),
            self.checkpoints.figures(),
        ]
        ours.append(hashlib.sha256(to_host(job.model.params).tobytes()).hexdigest())
        everyone = list(zip(*job.comm.allgather(ours), strict=True))
        messages, sent, shared, seconds, communication, waiting, worked, losses, saved, hashes = everyone
        if len(set(hashes)) > 1:
            raise AssertionError(f"the merged model differs between ranks: {hashes}")
        samples, slowest = sum(worked), max(seconds)
        rate = samples / max(slowest, 1e-9)
        facts = {
            "model": run.model,
            "data": run.data,
            "split": run.split,
            "sync": run.sync,
            "collective": job.route and job.route.name,
            "compress": run.compress,
            "ranks": job.comm.size,
            "workers": strategy.workers,
            "parameters": job.model.size,
            "dtype": run.dtype,
            "reproducible": run.reproducible,
            "blas": run.blas,
            "products": job.products.about,
            "batch_size": run.batch_size,
            "steps": job.steps,
            "epochs": job.steps / job.split.steps_per_epoch,
            "samples": samples,
            "shard_sizes": job.shard_sizes(),
            "seconds": slowest,
            "seconds_total": time.perf_counter() - self.started,
            "samples_per_second": rate,
            **({"tokens_per_second": rate * self.tokens} if self.tokens else {}),
            "train_loss": losses[0],
            "validation_loss_before": self.before,
            "validation_loss": scores.loss,
            "accuracy": scores.accuracy if job.data.schema.kind == "classes" else None,
            "weight_error": weight_error(job),
            "messages_sent": list(messages),
            "bytes_sent": list(sent),
            "shared_bytes": [read for read, _ in shared],
            "device_messages": strategy.comm.mode,
            "staged_bytes": [copied for _, copied in shared] if run.device != "cpu" else None,
            **by_rank(seconds, communication, waiting, strategy.workers),
            "params_sha256": hashes[0],
            "resumed_from": self.resumed_from,
            "ranks_before": self.ranks_before,
            "run_dir": str(self.folder),
            **checkpoint_figures(saved),
            **job.diagnostics.summary(),
            **job.numbers.summary(),
            **strategy.summary(),
        }
        return {
            name: value
            for name, value in facts.items()
            if value is not None or name in ("collective", "resumed_from")
        }
