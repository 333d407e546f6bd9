"""The train program, of which one rank is stopped or fails in one place.

`python -m tests.places RANK PLACE HOW OPTIONS`; HOW: see `WAYS`. It wraps what it needs and then calls
`mpidp.train.main`: mpidp itself has no hook for this.
"""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from mpidp import building, evaluation, progress, train
from mpidp.checkpoint import background
from mpidp.comm import Communicator
from mpidp.recovery.agreement import Agreement
from mpidp.strategies.averaging import Averaging

STEP = 4

LISTING = r"find $1 -type f -printf '%p %T@ %s\n' | sort"  # for `sh -c`

PLACES: dict[str, tuple[Any, str, Callable[..., Communicator | Agreement], str]] = {
    "training": (building.Job, "batch", lambda job, t: job.comm, "training"),
    "evaluation": (evaluation, "evaluate", lambda model, data, comm, *_: comm, "evaluating"),
    "saving": (background.Checkpoints, "save", lambda self, *_: self.comm, "saving"),
    "writing": (background.Checkpoints, "write", lambda self, *_: self.comm, ""),
    "merge": (Averaging, "merge", lambda self, *_: self.comm, "merging"),
    "finish": (Agreement, "finish", lambda self: self, ""),
    "summary": (progress.Progress, "summary", lambda self, *_: self.job.comm, "finishing"),
}
"""What is wrapped, by whose control plane the rank is known there, and the phase in which it happens ("": in any)."""


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_both() -> None:
    """Rank and guard, until a second after RUN/summary.json is there; what is in RUN then goes into RUN.txt."""
    run, guard, rank = sys.argv[sys.argv.index("--run-dir") + 1], os.getppid(), os.getpid()
    script = (
        "for i in $(seq 200); do test -e $1/summary.json && break; sleep 0.1; done; sleep 1; "
        f"{LISTING} >$1.txt; kill -CONT $2 $3"
    )
    subprocess.Popen(["sh", "-c", script, "sh", run, str(guard), str(rank)], start_new_session=True)
    os.kill(guard, signal.SIGSTOP)
    stop()


def fail() -> None:
    raise ZeroDivisionError("a mistake of ours")


WAYS = {"stop": stop, "stop both": stop_both, "fail": fail}


def arrange(rank: int, place: str, how: Callable[[], None]) -> None:
    """Have `how()` called once, by this rank of the job, when it comes to that place at or after step STEP."""
    owner, name, comm_of, phase = PLACES[place]
    original, once = getattr(owner, name), [how]

    @functools.wraps(original)
    def wrapped(*arguments: Any, **more: Any) -> Any:
        control = comm_of(*arguments).control
        if once and control.rank == rank and (control.step or 0) >= STEP and phase in ("", control.phase):
            once.pop()()
        return original(*arguments, **more)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    rank, place, how, *options = sys.argv[1:]
    arrange(int(rank), place, WAYS[how])
    sys.exit(train.main(options))
