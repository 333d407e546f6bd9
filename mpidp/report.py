"""What a run tells: a progress bar on a terminal, lines where there is none, metrics.jsonl, the summary."""

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mpidp import diagnostics
from mpidp.errors import RunError
from mpidp.machine import terminal_columns
from mpidp.numbers.watch import rows as number_rows
from mpidp.workspace import write_whole


class Report:
    """Rank 0's voice; on every other rank a silent one."""

    def __init__(self, speaks: bool, steps: int, run_dir: Path, unit: str):
        self.speaks = speaks
        self.steps = steps
        self.unit = unit
        self.path = run_dir / "metrics.jsonl"
        self.lines_shown = 0
        self.warned = False  # that metrics cannot be written
        columns = terminal_columns() if speaks else None
        self.console = Console(
            quiet=not speaks,
            force_terminal=columns is not None,
            width=max(columns or 100, 60),
            highlight=False,
        )
        self.progress: Progress | None = None
        if columns is not None:
            self.progress = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]}  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.show(text, markup=False, soft_wrap=True)

    def show(self, *what: Any, **how: Any) -> None:
        """Print; where standard output is a file on a full disk, go on, and let it have what it still takes."""
        with contextlib.suppress(OSError):
            self.console.print(*what, **how)

    def begin(self, done: int) -> None:
        """Show the bar, if there is a terminal, at `done` steps."""
        if self.progress is not None:
            self.task = self.progress.add_task("", total=self.steps, completed=done, loss="-", rate="")
            self.progress.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step)

    def metrics(self, line: dict[str, Any]) -> None:
        """A logged step: a line of metrics.jsonl, the bar's figures, or now and then a line on the screen."""
        if not self.speaks:
            return
        self.append(line)
        rate = f"{thousands(line[self.unit + '_per_second'])} {self.unit}/s"
        loss = (
            "-" if line["train_loss"] is None else f"{line['train_loss']:.4f}"
        )  # where all steps were left out
        if self.progress is not None:
            self.progress.update(self.task, loss=loss, rate=rate)
        elif line["step"] * 10 >= self.steps * (self.lines_shown + 1):
            self.lines_shown = line["step"] * 10 // self.steps
            self.say(f"step {line['step']:>6}/{self.steps}  loss {loss}  {rate}")

    def evaluation(self, line: dict[str, Any]) -> None:
        """An evaluation on the way."""
        if self.speaks:
            self.append(line)
            self.say(f"step {line['step']:>6}/{self.steps}  validation loss {line['validation_loss']:.4f}")

    def figures(self, step: int, figures: dict[str, Any]) -> None:
        """What diagnostics found after this step, if anything."""
        if self.speaks and figures:
            self.append({"step": step} | figures)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; where that fails, warn once and go on, with no half of a line left there."""
        try:
            with self.path.open("ab", buffering=0) as file:
                size, text = file.tell(), (json.dumps(line) + "\n").encode()
                if file.write(text) < len(text):
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self.warned:
                self.say(f"warning: {self.path} cannot be written: {error.strerror}; training goes on")
            self.warned = True

    def end(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()

    def last_words(self, text: str | None) -> None:
        """Print a line, if there is one, the last of standard output.

        Raises RunError where it could not be; a full disk that took no line before is no error.
        """
        try:
            if text is not None and self.speaks:
                print(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # Python flushes once more when it ends
            if text is not None and self.speaks:
                raise RunError(
                    f"the summary cannot be written to standard output ({error.strerror}); it is in "
                    f"{self.path.parent}/summary.json"
                ) from None

    def keep_metrics_until(self, step: int, known: Sequence[dict[str, Any]]) -> None:
        """Drop what a run that was cut off had logged after the step from which it goes on.

        known: lines up to it, which the run may have been cut off before it had written.
        """
        if not self.speaks or not self.path.exists():
            return
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if step_of(line) <= step]
            there = {step_of(line) for line in kept if "train_loss" in line}
            missing = {line["step"]: line for line in known if line and line["step"] not in there}
            kept += [json.dumps(line) for at, line in missing.items() if 0 < at <= step]
            kept.sort(key=step_of)
            write_whole(self.path, "".join(line + "\n" for line in kept))
        except (OSError, UnicodeDecodeError) as error:
            self.say(f"warning: {self.path} cannot be read and written: {error}; training goes on")

    def summary(self, facts: dict[str, Any], sample: str | None) -> None:
        """The table at the end."""
        table = Table(show_header=False, box=None, padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in summary_rows(facts):
            table.add_row(name, value)
        self.show()
        self.show(table)
        if sample is not None:
            self.show("\n[bold]  sample of the merged model[/bold]")
            for line in sample.splitlines():
                self.say("    " + line)


def step_of(line: str) -> float:
    """The step that a line of metrics.jsonl tells of; infinite for a line cut off or spoilt."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def summary_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, figures) for people; `summary.json` has the same in full."""
    before = f"{facts['validation_loss_before']:.4f} → " if "validation_loss_before" in facts else ""
    rows = [("validation loss", f"{before}{facts['validation_loss']:.4f}")]
    if facts.get("accuracy") is not None:
        rows.append(("accuracy", f"{100 * facts['accuracy']:.2f} % of the validation set"))
    if facts.get("weight_error") is not None:
        rows.append(
            ("weight error", f"{facts['weight_error']:.2e} from the least-squares solution (relative)")
        )
    before = facts.get("ranks_before")
    if before not in (None, facts["ranks"]):
        rows.append(("ranks", f"{facts['ranks']}; {before} up to step {facts['resumed_from']}"))
    steps = facts["steps"] - (facts["resumed_from"] or 0)
    rate = f"{thousands(facts['samples_per_second'])} samples/s"
    if "tokens_per_second" in facts:
        rate += f", {thousands(facts['tokens_per_second'])} tokens/s"
    rows.append(("speed", f"{rate}; {steps} steps in {facts['seconds']:.1f} s"))
    parts = {
        "compute": facts["seconds_compute"],
        "communication": facts["seconds_communication"],
        "waiting": facts["seconds_waiting"],
    }
    whole = max(sum(parts.values()), 1e-9)
    rows.append(
        ("time of a worker", ", ".join(f"{name} {100 * s / whole:.0f} %" for name, s in parts.items()))
    )
    if len(facts["seconds_compute_by_rank"]) > 1 and "imbalance" in facts:
        slowest = facts["slowest_rank"]
        seconds = f"{facts['seconds_compute_by_rank'][slowest]:.1f} s of computing"
        rows.append(
            ("slowest rank", f"{slowest}: {seconds}, {facts['imbalance']:.2f} times the workers' mean")
        )
    sent = f"{span(facts['messages_sent'])} messages, {span(facts['bytes_sent'])} bytes"
    if any(facts["shared_bytes"]):
        where = "GPU memory of others" if "staged_bytes" in facts else "shared memory"
        sent += f"; {span(facts['shared_bytes'])} bytes through {where}"
    rows.append(("sent by a rank", sent))
    if "staged_bytes" in facts:
        way = "MPI reads GPU memory" if facts.get("device_messages") == "direct" else "messages are staged"
        rows.append(("through the host", f"{span(facts['staged_bytes'])} bytes copied by a rank; {way}"))
    if "staleness" in facts:
        rows.append(("staleness of gradients", shares(facts["staleness"], facts["staleness_mean"])))
    if "dropped_gradients" in facts:
        dropped = facts["dropped_gradients"]
        rows.append(("dropped gradients", f"{sum(dropped)}; by worker {', '.join(map(str, dropped))}"))
    if "checkpoints_written" in facts:
        failed = f", {facts['checkpoints_failed']} could not be" if facts["checkpoints_failed"] else ""
        pause = f"a pause of {1000 * facts['checkpoint_pause']:.1f} ms at most"
        rows.append(("checkpoints", f"{facts['checkpoints_written']} written{failed}; {pause}"))
    rows += diagnostics.rows(facts) + number_rows(facts)
    rows.append(("params SHA-256", facts["params_sha256"]))
    rows.append(("merged model", f"{facts['run_dir']}/model.safetensors"))
    return rows


def shares(histogram: dict[str, int], mean: float) -> str:
    """What share of the gradients had which staleness: the commonest four, the mean and the largest."""
    whole = max(sum(histogram.values()), 1)
    common = sorted(sorted(histogram, key=histogram.__getitem__)[-4:], key=int)
    parts = [f"{tau}: {100 * histogram[tau] / whole:.0f} %" for tau in common]
    return f"{', '.join(parts)}; mean {mean:.2f}, largest {max(map(int, histogram), default=0)}"


def span(values: list[int]) -> str:
    """The least and the most of the ranks' figures."""
    return f"{min(values)}" if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def thousands(value: float) -> str:
    """A figure for people: 12,345 or 1.23."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
