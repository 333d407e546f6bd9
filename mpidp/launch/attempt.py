"""One start of the ranks: signals are passed on to them, and when it is over nothing is left of it on this machine."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from mpidp.comm.endings import say
from mpidp.failure_options import SUPERVISED
from mpidp.machine import shared_memory_leftovers

PATIENCE = 6.0
"""Seconds that ranks have to end by themselves once their launcher has: some still say why they end."""

LOOK_EVERY, ALONE = 1.0, 6.0
"""Seconds between two looks for ranks on this machine; and those that a launcher whose ranks here have all ended is
waited for: a host that is cut off never tells it that its ranks have ended too."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>, Linux
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


class Attempts:
    """Starts the ranks, as often as `run` is called; `stopped` is the signal by which the user ended it all."""

    def __init__(self) -> None:
        self.stopped: int | None = None
        self.cut_off = (
            False  # the launcher of the last attempt was ended, for it waited for a host that is gone
        )
        self.child: subprocess.Popen[bytes] | None = None
        self.waiting: list[int] = []  # signals that came while there was nobody to pass them on to
        self.passed = 0  # of them, passed on
        self.prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
        if self.prctl:  # whoever loses its parent becomes a child of ours, and is found in `sweep`
            self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in PASSED_ON:
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        self.waiting.append(number)
        self.pass_on()

    def pass_on(self) -> None:
        """To the ranks that are here, since Open MPI's launcher would give them no time to stop; else to the launcher.

        The first stops them after a step, the second at once; it is the launcher that all further ones end.
        """
        while self.child is not None and self.waiting:
            number, here = self.waiting.pop(0), ranks_here() if self.passed < 2 else []
            self.passed += 1
            if not here:
                self.child.send_signal(number)
            for pid in here:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def run(self, command: Sequence[str], environment: Mapping[str, str], elsewhere: bool) -> int:
        """The launcher's exit code, 128 + n where it was killed by signal n.

        elsewhere: there are ranks on other hosts too.
        """
        before = set(shared_memory_leftovers())
        # A session of its own: what a terminal sends reaches the ranks once, through us.
        self.child = child = subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=self.end_with_us(os.getpid())
        )
        self.pass_on()
        self.cut_off = False
        code = self.wait_beside_ranks(child) if elsewhere else child.wait()
        self.child = None
        sweep(PATIENCE)
        if code:  # MPI libraries tidy up when they are finalised, and not when they are ended
            for path in set(shared_memory_leftovers()) - before:
                with contextlib.suppress(OSError):
                    path.unlink()
        return 128 - code if code < 0 else code

    def wait_beside_ranks(self, child: "subprocess.Popen[bytes]") -> int:
        """The launcher's exit code; it is ended where its ranks on this machine have ended and it waits for others."""
        last_seen = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(LOOK_EVERY)
            now = time.monotonic()
            if ranks_here():
                last_seen = now
            elif last_seen is not None and now - last_seen > ALONE:
                say("the ranks on this machine have ended, and the launcher waits for another's: it is ended")
                self.cut_off = True
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(2)
                child.kill()
                return child.wait()

    def end_with_us(self, parent: int) -> Callable[[], None]:
        """What the launcher does first: ask to be told to end, by SIGTERM, when we are gone."""

        def ask() -> None:
            if self.prctl:
                self.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        return ask

    def sleep(self, seconds: float) -> None:
        """Wait, but not when the user has ended it all."""
        limit = time.monotonic() + seconds
        while self.stopped is None and time.monotonic() < limit:
            time.sleep(min(0.1, seconds))


def ranks_here() -> list[int]:
    """The processes on this machine in which this one has had ranks started: their guards, where those stand."""
    mark = f"{SUPERVISED}={os.getpid()}".encode()
    names = (b"PMI_RANK=", b"OMPI_COMM_WORLD_RANK=", b"SLURM_PROCID=")
    parents = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            variables = path.read_bytes().split(b"\0")
            if mark in variables and any(each.startswith(names) for each in variables):
                parents[int(path.parent.name)] = parent_of(path.parent)
    return [pid for pid, parent in parents.items() if parent not in parents]


def parent_of(process: Path) -> int:
    """By its folder in /proc. Raises OSError where it has ended."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def sweep(patience: float) -> None:
    """Return when nothing that we or ours have started is left; after `patience` seconds it is ended."""
    limit = time.monotonic() + patience
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            if time.monotonic() > limit:
                for pid in children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def children() -> list[int]:
    """The processes whose parent we are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if parent_of(process) == os.getpid():
                found.append(int(process.name))
    return found
