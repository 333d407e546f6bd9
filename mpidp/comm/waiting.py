"""Waiting for messages, polled.

A wait tests its requests for about 100 µs (the answer of an idle peer comes that fast) and then sleeps between two
tests for an eighth of the time waited so far, up to 1 ms: what was awaited is seen late by an eighth at most. A waiting
rank therefore takes no core from a rank that computes, which a blocking MPI call would (measured with four ranks on two
cores: it halves the speed of the others), and it can end: when a rank is lost, or with a message that names the peer
when nothing has come for `timeout` seconds. Where every rank has a core of its own, there is nobody to take one from,
and sleep would only cost the time of waking up: there it tests for 20 ms.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpidp.comm.pending import Pending
from mpidp.errors import RunError

if TYPE_CHECKING:
    from mpidp.comm.communicator import Traffic
    from mpidp.comm.control import Control

T = TypeVar("T")

SHORTEST_NAP, LONGEST_NAP = 20e-6, 1e-3  # seconds

SHORT_SPIN, LONG_SPIN = 100e-6, 20e-3
"""Seconds for which a wait tests without sleeping: where ranks share cores, and where each has one of its own."""


class Waiting:
    """The verbs that wait, of a `Communicator`."""

    rank: int
    timeout: float
    spin: float
    turn: int
    traffic: "Traffic"
    control: "Control | None"
    chores: list[Callable[[], None]]

    def Test(self, *pending: Pending) -> bool:
        """Whether all of `pending` is complete, without waiting; MPI moves messages on in such calls alone."""
        for one in pending:
            tests = one.tests
            while tests:
                if not tests[0]():
                    return False
                tests.pop(0)
        return True

    def Wait(self, *pending: Pending, of: Any = None) -> None:
        """Return when all of `pending` is complete; `of`: the generator of an algorithm, to name it where need be.

        Raises RunError where that takes longer than `timeout` seconds, RankLost where a rank is lost meanwhile.
        """
        if not self.Test(*pending):
            self._poll(lambda: self.Test(*pending) or None, lambda: named(pending, of))

    def Waitany(self, pending: Sequence[Pending]) -> int:
        """The number in `pending` of one that is complete, when there is one.

        Fair: looks first at the one behind that of the last call, so that where several always are, each has its turn.
        Raises RunError where that takes longer than `timeout` seconds.
        """
        first = self.turn % len(pending)
        order = [*range(first, len(pending)), *range(first)]

        def one() -> int | None:
            return next((i for i in order if self.Test(pending[i])), None)

        found = one()
        if found is None:
            found = self._poll(one, lambda: "the first of: " + ", ".join(map(str, pending)))
        self.turn = found + 1
        return found

    def _poll(self, look: Callable[[], T | None], what: Callable[[], str]) -> T:
        """The first answer of `look()` that is not None; `what()` it is that is waited for."""
        began = now = time.perf_counter()
        while (found := look()) is None:
            self._attend()
            now = time.perf_counter()
            if now - began >= self.spin:
                found = self._nap(look, what, began)
                now = time.perf_counter()
                break
        self.traffic.seconds_waiting += max(0.0, now - began - SHORT_SPIN)
        return found

    def _nap(self, look: Callable[[], T | None], what: Callable[[], str], began: float) -> T:
        """The rest of a wait that has lasted for a while. Raises RankLost where what is awaited may never come."""
        with self.control.waiting_for(what) if self.control else contextlib.nullcontext():
            while (found := look()) is None:
                self._attend()
                if self.control:
                    self.control.check()
                waited = time.perf_counter() - began
                if waited > self.timeout:
                    self._give_up(what())
                time.sleep(min(max(SHORTEST_NAP, waited / 8), LONGEST_NAP))
        return found

    def _attend(self) -> None:
        """Do what others wait for, whatever this rank waits for."""
        for chore in self.chores:
            chore()

    def _give_up(self, what: str) -> None:
        if self.control:
            self.control.late(what)  # which ends the job, with a report of all ranks
        raise RunError(
            f"rank {self.rank} waited {self.timeout:g} s for {what}; "
            "that rank is lost, stopped or far behind (--timeout sets this limit)"
        )


def named(pending: Sequence[Pending], of: Any) -> str:
    """What is waited for; with the algorithm, innermost of those that it is made of, and the file where it stands."""
    text = next((str(one) for one in pending if one.tests), "nothing any more")
    while getattr(of, "gi_yieldfrom", None) is not None:
        of = of.gi_yieldfrom
    code = getattr(of, "gi_code", None)
    return text if code is None else f"{text}, in {code.co_name} of {Path(code.co_filename).name}"
