"""The train program, of which one rank kills itself where VARIABLE tells it: `python -m tests.faults.victim OPTIONS`.

It wraps what it needs and then calls `mpidp.train.main`: mpidp itself has no hook for this.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mpidp import train
from mpidp.building import Job
from mpidp.checkpoint import background, reports
from mpidp.comm import Communicator

VARIABLE = "MPIDP_TEST_FAULT"
PHASES = ("start", "forward", "backward", "collective", "saving", "merge")


@dataclass
class Fault:
    """Who is killed, where, and once in all: by whom the file `once` can be made."""

    rank: int
    phase: str
    step: int
    once: str
    turn: int = 1  # which of several places in that phase, or the how manieth
    pace: float = 0.0  # seconds that every step takes at least, for kills from outside

    def to_env(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def strike(self) -> None:
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Wrapped:
    """What is to happen in this process: `armed` from the phase's begin on, until it has struck."""

    def __init__(self, fault: Fault):
        self.fault = fault
        self.armed = False
        self.calls = 0

    def strike(self) -> None:
        if self.armed:
            self.fault.strike()
            self.armed = False

    def before(self, owner: Any, name: str, action: Callable[..., None]) -> None:
        """Have `action(*arguments)` called first, wherever owner.name is."""
        original = getattr(owner, name)

        def both(*arguments: Any, **more: Any) -> Any:
            action(*arguments)
            return original(*arguments, **more)

        setattr(owner, name, both)

    def after(self, owner: Any, name: str, action: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def both(*arguments: Any, **more: Any) -> Any:
            result = original(*arguments, **more)
            action(*arguments)
            return result

        setattr(owner, name, both)

    def arrange(self) -> None:
        """Wrap what every run goes through; what belongs to a job is wrapped when there is one."""
        build = train.build

        def built(*arguments: Any) -> Job:
            job = build(*arguments)
            self.arrange_in(job)
            return job

        train.build = built

    def arrange_in(self, job: Job) -> None:
        fault = self.fault
        self.before(job, "batch", lambda t: time.sleep(fault.pace))
        if job.comm.rank != fault.rank:
            return
        if fault.phase == "start":
            self.armed = True
            self.in_calls()
            self.after(job.strategy, "start", lambda *_: self.strike())
        elif fault.phase in ("forward", "backward"):
            self.after(job, "batch", self.arm_at)
            stack = job.model.stack
            self.before(stack[fault.turn % len(stack)], fault.phase, lambda *_: self.strike())
            self.before(job.strategy, "step", lambda *_: self.strike())  # who has no samples
        elif fault.phase == "collective":
            self.before(job.strategy, "step", lambda step: self.arm_at(step.t))
            self.in_calls()
            self.after(job.strategy, "step", lambda *_: self.strike())
        elif fault.phase == "saving":
            self.before(background.Checkpoints, "write", lambda _, step, *more: self.arm_at(step))
            if fault.turn % 3 == 0:
                self.after(background.tensors, "write", lambda *_: self.strike())
            elif fault.turn % 3 == 1 and fault.rank == 0:
                self.before(background, "finish", lambda *_: self.strike())
            else:
                self.before(reports.Reports, "tell", lambda *_: self.strike())
            self.after(background.Checkpoints, "write", lambda *_: self.strike())
        elif fault.phase == "merge":
            self.after(job, "batch", self.arm_last)
            self.before(job.strategy, "merge", lambda *_: self.in_calls())
            self.after(job.strategy, "merge", lambda *_: self.strike())
            self.steps = job.steps

    def arm_at(self, t: int) -> None:
        self.armed = self.armed or t == self.fault.step

    def arm_last(self, t: int) -> None:
        self.armed = t == self.steps

    def in_calls(self) -> None:
        """Strike at the how manieth call of a communicator from now on."""
        for name in ("Isend", "Irecv", "Ifence", "Ibarrier", "Test"):
            self.before(Communicator, name, lambda *_: self.count())

    def count(self) -> None:
        self.calls += self.armed
        if self.calls >= self.fault.turn:
            self.strike()


def main() -> int:
    if VARIABLE in os.environ:
        Wrapped(Fault(**json.loads(os.environ[VARIABLE]))).arrange()
    return train.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
