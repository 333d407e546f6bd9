"""The control plane: what ranks know of each other beside MPI, and tell each other without their main threads.

MPI says nothing of a peer that is gone: what waits for it waits for ever. So the ranks have connections and a thread
of their own (`comm/links.py`), by which each knows who is lost, where the others are, and when the job is to end.

The thread belongs to the object. The main thread calls `at`, `check`, `waiting_for` and `blocked`, and may call `tell`,
`on` and `later`; all handlers are called in the control thread.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from mpidp.comm.endings import DRAIN, say
from mpidp.comm.guard import Guard
from mpidp.comm.links import Links
from mpidp.comm.mesh import Peer, connect
from mpidp.errors import RankLost

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator
    from mpidp.comm.order import Orders

GRACE = 5.0
"""Seconds that a main thread has to notice that a rank is lost: then it is stuck in a call of MPI."""

TURN = 0.5  # seconds for which a rank leaves the word to the one before it
LATE = 20.0  # seconds for which a main thread that is late with giving up leaves the ending to the watchdog
END = 4.0  # seconds that a launcher has to end this process when the job is at its end


class Control(Links):
    """What this rank knows of the others, and what its main thread does."""

    def __init__(self, rank: int, peers: list[Peer], guard: Guard | None, abort: Callable[[int], None]):
        super().__init__(rank, peers)
        self.guard = guard  # of this rank
        self.abort = abort  # ends all ranks, with this exit code
        self.policy = "abort"  # what --on-failure says
        self.timeout = 600.0  # seconds that a wait may last
        self.step: int | None = None  # the one that the main thread is in
        self.phase = "start"  # what it does there
        self.waiting: Callable[[], str] | None = None  # for what, once it waits
        self.waiting_since = 0.0
        self.in_mpi = False  # where it does so in a call that cannot be polled
        self.on_late: Callable[[str], None] = lambda what: None  # what to do about a wait that is too long
        self.orders: Orders | None = None  # of the calls on communicators, where they are checked
        self.codes: dict[int, int] = {}  # rank -> the exit code with which it has ended the job
        self.main = threading.get_ident()
        self._accepted: set[int] = set()  # lost ranks with whom nobody reckons any more
        self._news = False  # a loss that the main thread has not been told
        self.on_lost(self._one_is_lost)
        self.on("end", self._another_ends_the_job)
        self.thread.start()

    def at(self, step: int | None = None, phase: str | None = None) -> None:
        """The main thread says where it is."""
        if step is not None:
            self.step = step
            if self.guard:
                self.guard.at(step)
        if phase is not None:
            self.phase = phase

    def check(self) -> None:
        """Raise RankLost where a rank is lost that is not accepted as such: for the main thread, wherever it waits."""
        if self._news:
            lost = {rank: why for rank, why in self.lost.items() if rank not in self._accepted}
            if lost:
                raise RankLost(lost, f"rank {self.rank} was at {self.where()}")
            self._news = False

    def accept(self, ranks: Iterable[int]) -> None:
        """From now on the job goes on without these lost ranks: `check` is silent about them."""
        self._accepted |= set(ranks)

    def on_failure(self, policy: str) -> None:
        """What the job is to do when a rank is lost, as `--on-failure` says."""
        self.policy = policy
        if self.guard:
            self.guard.policy(policy)

    def where(self) -> str:
        """What the main thread does, for a message."""
        step = "" if self.step is None else f"step {self.step}, "
        waiting = self.waiting
        return f"{step}{self.phase}" + (f", waiting for {waiting()}" if waiting else "")

    @contextlib.contextmanager
    def waiting_for(self, what: Callable[[], str]) -> Iterator[None]:
        """Around a wait of the main thread; `what()` says for what."""
        before = self.waiting, self.waiting_since
        self.waiting, self.waiting_since = what, time.monotonic()
        try:
            yield
        finally:
            self.waiting, self.waiting_since = before

    @contextlib.contextmanager
    def blocked(self, what: str) -> Iterator[None]:
        """Around a call of MPI that does not come back without its peers, and so cannot be polled."""
        self.check()
        with self.waiting_for(lambda: what):
            self.in_mpi = True
            try:
                yield
            finally:
                self.in_mpi = False

    def late(self, what: str) -> None:
        """The main thread has waited for too long: returns only where the job does not end for that.

        Raises RankLost where it goes on without those who do not answer.
        """
        self.later(0, partial(self.on_late, f"waited {self.timeout:g} s for {what}"))
        limit = time.monotonic() + LATE
        while time.monotonic() < limit:
            self.check()
            time.sleep(0.01)

    @property
    def ending(self) -> bool:
        """Whether the job is at its end: a rank has said why, or is about to."""
        return bool(self.codes)

    @property
    def code(self) -> int:
        """The job's exit code, the same on all ranks: of several that end it at once, the first rank's.

        Launchers make one of their ranks' codes, and MPICH's by a bitwise or: of 1 and 2, 3, which means something
        else.
        """
        return self.codes[min(self.codes)]

    def end_with(self, code: int) -> None:
        """This rank ends the job, and says why."""
        self._ends(self.rank, code)
        self.tell("end", code)

    # In the control thread: endings that the main thread cannot bring about

    def end(self, text: str, code: int) -> None:
        """End the job: say why, and end all ranks with this exit code, whatever their main threads do."""
        if self.ending:
            return
        self.end_with(code)
        say(text)
        self.later(DRAIN, threading.Thread(target=lambda: self.abort(self.code), daemon=True).start)
        self.later(DRAIN + END, self._exit)

    def _another_ends_the_job(self, rank: int, code: int) -> None:
        """That rank has said why."""
        self._ends(rank, code)
        self.later(END, self._exit)

    def _ends(self, rank: int, code: int) -> None:
        self.codes[rank] = code
        if self.guard:
            self.guard.told()

    def close(self) -> None:
        """Say goodbye to all others and end the thread."""
        if self.guard:
            self.guard.told()
        super().close()

    def _exit(self) -> None:
        os._exit(self.code)

    def _one_is_lost(self, rank: int) -> None:
        self._news = True
        self.later(GRACE + TURN * self.alive().index(self.rank), self._main_is_stuck)

    def _main_is_stuck(self) -> None:
        try:
            if self.in_mpi or self.policy != "shrink":
                self.check()
        except RankLost as lost:
            self.end(f"error: {lost}", 1)


def start(comm: "Communicator", guard: Guard | None) -> Control | str:
    """The control plane of the ranks of `comm`, all of which call this; or, on all of them, why there is none."""
    peers = connect(comm)
    if guard:
        guard.begun()
    if isinstance(peers, str):
        return peers
    if guard:
        guard.connected([peer.socket for peer in peers])
    return Control(comm.rank, peers, guard, comm.Abort)
