"""The watchdog: when a wait lasts for too long, who is late, where every rank is, and the end of the job.

A rank that has waited for `--timeout` seconds, polling, inside a call of MPI or for control messages, has the first
rank that answers make one report for all: it asks every control thread where its main thread is, waits a moment for the
answers, prints them with the Python stacks, and ends the job. A rank that is stopped does not answer, and so is named.

Where the job is to go on with those who are left (`--on-failure shrink`), those who do not answer count as lost. Were
the ranks only cut off from each other, two jobs would go on: so the larger part does, of two halves the one with the
lowest rank, and whoever is not of it ends at once, also when it wakes up again much later.
"""

import os
import signal
import sys
import time
import traceback
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from mpidp.comm import waiting
from mpidp.comm.control import END, Control
from mpidp.comm.endings import say

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
        self.reports = 0  # after which the job went on
        control.on("late", self.asked_for_a_report)
        control.on("reporting", self.another_reports)
        control.on("where", lambda rank, _: control.tell("here", self.here(), to=rank))
        control.on("here", self.answered)
        control.on("without", self.without)
        control.on_late = self.late
        control.later(LOOK, self.look)

    def look(self) -> None:
        control, now = self.control, time.monotonic()
        what, since = control.waiting, control.waiting_since
        if what is not None and now - since > control.timeout:
            self.late(f"waited {control.timeout:g} s for {what()}")
        control.later(LOOK, self.look)

    def late(self, what: str) -> None:
        """Have a report made, by the first rank that answers."""
        if self.found is None:
            self.found = f"rank {self.control.rank} {what}"
            self.ask(self.control.alive())

    def ask(self, candidates: list[int]) -> None:
        if self.found is None or self.reported or self.control.ending:
            return
        first, *rest = candidates
        self.control.tell("late", self.found, to=first)
        self.control.later(ANSWER, partial(self.ask, rest or [self.control.rank]))

    def another_reports(self, rank: int, _: Any) -> None:
        self.reported = True
        self.control.later(2 * ANSWER + END, partial(self.nothing_came, self.reports))

    def nothing_came(self, number: int) -> None:
        if self.reported and self.reports == number:
            os._exit(1)

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
        mute = [rank for rank in control.alive() if rank not in answers]
        busy = [rank for rank, here in answers.items() if here["waits"] is None]
        lines = [f"error: {self.found} (--timeout sets this limit): {blame(mute, sorted(busy))}"]
        for rank in range(control.size):
            if rank in control.lost:
                lines.append(f"  {control.lost[rank]}")
            elif rank in mute:
                lines.append(f"  {control.name(rank)}: does not answer: stopped, or cut off")
            elif rank in answers:
                here = answers[rank]
                waits = "" if here["waits"] is None else f", for {here['waits']:.1f} s"
                lines.append(f"  {control.name(rank)}: {here['at']}{waits}")
                lines += [f"      {line}" for line in here["stack"]]
        if not mute or control.policy != "shrink":
            control.end("\n".join(lines), 1)
        elif outnumbers(list(answers), mute):
            self.leave_out(mute)
        else:
            say("\n".join(lines))
            self.leave_out(list(answers))

    def leave_out(self, ranks: list[int]) -> None:
        """Have all others, and these ranks themselves, know that the job goes on without them."""
        self.control.tell("without", ranks)
        self.without(self.control.rank, ranks)

    def without(self, rank: int, ranks: list[int]) -> None:
        control = self.control
        if control.rank in ranks:
            say(f"{control.name(control.rank)} did not answer, and the others go on without it: it ends")
            # Wherever the main thread is; the guard lets the others live.
            os.kill(os.getpid(), signal.SIGKILL)
        self.found, self.reported, self.answers = None, False, {}
        self.reports += 1
        control.waiting_since = time.monotonic()  # for those who are left patience begins anew
        control.tell("without", ranks, to=[each for each in ranks if each in control.others()])
        for each in ranks:
            control.drop(each, "does not answer: stopped, or cut off")


def outnumbers(ours: list[int], theirs: list[int]) -> bool:
    """Whether the job is where these ranks are, and not where those are."""
    return len(ours) > len(theirs) or (len(ours) == len(theirs) and min(ours) < min(theirs))


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
