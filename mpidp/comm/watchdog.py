"""The watchdog: when a wait lasts for too long, who is late, where every rank is, and the end of the job.

A rank that has waited for `--timeout` seconds, polling or inside a call of MPI, has the first rank that answers make
one report for all: it asks every control thread where its main thread is, waits a moment for the answers, prints them
with the Python stacks, and ends the job. A rank that is stopped does not answer, and so is named.
"""

import os
import sys
import time
import traceback
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from mpidp.comm import waiting
from mpidp.comm.control import END, Control

LOOK = 0.5  # seconds between two looks at how long the main thread has been waiting
ANSWER = 1.5  # seconds in which a rank that is not stopped answers
FRAMES = 12  # of a stack, the innermost


class Watchdog:
    """The part of a rank's control plane that knows how long is too long."""

    def __init__(self, control: Control):
        self.control = control
        self.found: str | None = None  # why there is to be a report
        self.reported = False  # or some rank is about to
        self.answers: dict[int, dict[str, Any]] = {}
        control.on("late", self.asked_for_a_report)
        control.on("reporting", self.another_reports)
        control.on("where", lambda rank, _: control.tell("here", self.here(), to=rank))
        control.on("here", self.answered)
        control.on_late = self.late
        control.later(LOOK, self.look)

    def look(self) -> None:
        control, now = self.control, time.monotonic()
        what, since = control.waiting, control.waiting_since
        if what is not None and control.in_mpi and now - since > control.timeout:
            self.late(f"waited {control.timeout:g} s for {what()}")
        control.later(LOOK, self.look)

    def late(self, what: str) -> None:
        """Have a report made, by the first rank that answers."""
        if self.found is None:
            self.found = f"rank {self.control.rank} {what}"
            self.ask(self.control.alive())

    def ask(self, candidates: list[int]) -> None:
        if self.reported or self.control.ending:
            return
        first, *rest = candidates
        self.control.tell("late", self.found, to=first)
        self.control.later(ANSWER, partial(self.ask, rest or [self.control.rank]))

    def another_reports(self, rank: int, _: Any) -> None:
        self.reported = True
        self.control.later(2 * ANSWER + END, partial(os._exit, 1))  # should it come to nothing

    def asked_for_a_report(self, rank: int, found: str) -> None:
        if self.reported or self.control.ending:
            return
        self.reported, self.found = True, found
        self.control.tell("reporting")
        self.control.tell("where")
        self.answers[self.control.rank] = self.here()
        self.control.later(ANSWER, self.report)

    def answered(self, rank: int, here: dict[str, Any]) -> None:
        self.answers[rank] = here

    def here(self) -> dict[str, Any]:
        """Where the main thread is."""
        control = self.control
        frame = sys._current_frames().get(control.main)
        stack = traceback.extract_stack(frame) if frame else []
        stack = list(takewhile(lambda entry: entry.filename != waiting.__file__, stack))[-FRAMES:]
        lines = [f"{short(entry.filename)}:{entry.lineno} {entry.name}: {entry.line}" for entry in stack]
        waits = time.monotonic() - control.waiting_since if control.waiting else None
        return {"at": control.where(), "step": control.step, "waits": waits, "stack": lines}

    def report(self) -> None:
        control, answers = self.control, self.answers
        mute = [rank for rank in range(control.size) if rank not in answers and rank not in control.lost]
        busy = [rank for rank, here in answers.items() if here["waits"] is None]
        lines = [f"error: {self.found} (--timeout sets this limit): {blame(mute, sorted(busy))}"]
        for rank in range(control.size):
            if rank in control.lost:
                lines.append(f"  {control.lost[rank]}")
            elif rank in mute:
                lines.append(f"  {control.name(rank)}: does not answer: stopped, or cut off")
            else:
                here = answers[rank]
                waits = "" if here["waits"] is None else f", for {here['waits']:.1f} s"
                lines.append(f"  {control.name(rank)}: {here['at']}{waits}")
                lines += [f"      {line}" for line in here["stack"]]
        control.end("\n".join(lines), 1)


def blame(mute: list[int], busy: list[int]) -> str:
    """Who is late."""
    if mute:
        return f"{ranks(mute)} {'do' if len(mute) > 1 else 'does'} not answer"
    if busy:
        return f"late {'are' if len(busy) > 1 else 'is'} {ranks(busy)}, still computing"
    return "every rank waits for another (--check-collectives finds calls that do not match)"


def ranks(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def short(path: str) -> str:
    """The end of a path, by which a file is known."""
    return "/".join(Path(path).parts[-2:])
