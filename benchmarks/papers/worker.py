"""The ranks of an experiment: `python -m benchmarks.papers.worker TASK.json` under mpirun; rank 0 writes the answer."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watched import FIGURES, Outcome, run
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError, guarded


def work(comm: Communicator, path: Path) -> int:
    """Every run of the task, one after the other; of each the quantities, or why mpidp refuses it."""
    task = json.loads(path.read_text())
    answers: list[dict[str, Any]] = []
    for number, arguments in enumerate(task["runs"]):
        try:
            outcome = run(comm, arguments, path.parent / f"run-{number}")
            answers.append(quantities(outcome, task["since"]))
        except SharedError as error:
            answers.append({"refused": str(error)})
    if comm.rank == 0:
        path.with_suffix(".answer").write_text(json.dumps(answers))
    return 0


def quantities(outcome: Outcome, since: int) -> dict[str, Any]:
    """What experiments are judged by. Traffic is that of the steps behind `since`, without the start and the merge.

    The rate is the sum of the workers', each by its own time: how fast they go while all are at work.
    """
    summary, steps = outcome.summary, outcome.steps
    since = min(since, summary["steps"] - 1)
    over = {name: steps[:, -1, i] - steps[:, since, i] for i, name in enumerate(FIGURES)}
    workers = summary["workers"]
    seconds = steps[:workers, -1, FIGURES.index("seconds")]
    return {
        "validation loss": summary["validation_loss"],
        "train loss": summary["train_loss"],
        "correct": 100 * (summary.get("accuracy") or 0.0),
        "MB sent": over["bytes"].max() / 1e6,
        "messages": over["messages"].max(),
        "samples a second": float(np.sum(summary["samples"] / workers / seconds)),
    }


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: work(comm, Path(sys.argv[1]))))
