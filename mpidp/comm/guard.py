"""The guard: a process between the launcher and a rank, which says how the rank ended when the rank cannot.

It is forked before MPI is loaded and is the parent of the rank, so that the system tells it of the rank's end: by which
signal, with which exit code. It then tells the other ranks, by the rank's own connections to them (`comm/control.py`),
of which it holds duplicates: they hear the cause before they see the end of file. What the launcher sees is the guard:
it passes signals on to the rank, and the rank's ending on to the launcher: as an exit code of the table in
docs/reliability.md, since some launchers make one of all ranks' endings. Where the job is to go on without lost ranks
(`--on-failure shrink`) it tells a launcher of MPICH's family that the rank is through with MPI (PMI-1's `cmd=finalize`)
and ends with code 0, for otherwise the launcher would end all others.

A rank that is stopped (SIGSTOP) hears nothing. Where the others go on without it its guard ends it, for it would hold
the launcher, and the claim on the run's directory.

Cost: a fork at the start, and a process that sleeps, whose memory is that of the rank before it loaded MPI; nothing in
a step but a number written to shared memory. So it always stands there.
"""

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mpidp.comm.beginning import Beginning

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR2)
"""To the rank. Not SIGUSR1, by which MPICH's launcher says that a rank has failed: the library does not survive it."""

LAST_WORDS = (
    4.0  # seconds that the others have to say why they end, before the launcher hears of it from the guard
)
HEAR_OUT = 0.3  # seconds that the guard reads what the others have sent to a rank that has ended
FDS_AT_ONCE = 200  # the system takes 253 in a message
LOOK, LOOK_OFTEN = 5.0, 0.2  # seconds between two looks; the latter at a rank that begins, or is stopped
START = 600.0  # seconds that the ranks have to be connected: before that no rank knows of another, nor of --timeout
UNREAD = 1 << 20  # bytes of what the others have told a stopped rank, at most, that are looked through
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15

LOST = 1
"""The exit code of a rank that was killed, and of all who lose one."""

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)  # 128 more, as where a rank ends at once by them

HINTS = {
    signal.SIGKILL: "by hand, by the batch system, or for want of memory",
    signal.SIGBUS: "as want of space in /dev/shm does it",
    signal.SIGSEGV: "a defect in a library of C code",
}


class Guard:
    """What a rank tells its guard."""

    def __init__(self, line: socket.socket, record: mmap.mmap):
        self._line, self._record = line, record

    def at(self, step: int) -> None:
        """The rank is in this step."""
        struct.pack_into("q", self._record, 0, step)

    def policy(self, name: str) -> None:
        """What `--on-failure` says."""
        self._line.sendall(json.dumps({"policy": name}).encode() + b"\n")

    def begun(self) -> None:
        """The rank is connected with the others, or knows that it cannot be."""
        self._line.sendall(b'{"begun": true}\n')

    def told(self) -> None:
        """The others know why this rank ends, and need no time to say so."""
        with contextlib.suppress(OSError):
            self._line.sendall(b'{"told": true}\n')

    def connected(self, sockets: Sequence[socket.socket]) -> None:
        """These lead to the other ranks."""
        for i in range(0, len(sockets), FDS_AT_ONCE):
            descriptors = [each.fileno() for each in sockets[i : i + FDS_AT_ONCE]]
            socket.send_fds(self._line, [b'{"peers": true}\n'], descriptors)


def stand(rank: int) -> Guard | None:
    """Put a guard in front of this process, the `rank`th of a launcher's; its end of the line, in the rank.

    None where that cannot be done any more, because MPI is loaded already, or this is not the main thread.
    """
    if "mpi4py.MPI" in sys.modules or threading.current_thread() is not threading.main_thread():
        return None
    ours, theirs = socket.socketpair()
    record = mmap.mmap(-1, mmap.PAGESIZE)
    struct.pack_into("q", record, 0, -1)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    kills = kills_for_memory()
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until either process is ready for them
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that there are threads: those of the BLAS library, which expects forks
        pid = os.fork()
    prctl = ctypes.CDLL(None).prctl
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        theirs.close()
        return Guard(ours, record)
    ours.close()
    prctl(PR_SET_NAME, b"mpidp-guard")
    try:
        Watch(rank, pid, theirs, record, kills).run()
    finally:
        os.kill(pid, signal.SIGKILL)  # never without a guard
        os._exit(1)


class Watch:
    """The guard itself, in its own process."""

    def __init__(self, rank: int, pid: int, line: socket.socket, record: mmap.mmap, kills: int):
        self.rank, self.pid, self.line, self.record, self.kills = rank, pid, line, record, kills
        self.policy, self.told = "abort", False
        self.peers: list[socket.socket] = []
        self.read = b""
        self.stopped = False
        self.beginning = Beginning.of_this_rank()  # None: nothing to be watched there, or no more
        self.connecting: float | None = time.monotonic() + START  # until then; None: it is connected

    def run(self) -> NoReturn:
        woken, waker = socket.socketpair()
        for end in (woken, waker, self.line):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        sources = [woken, self.line]
        while True:
            status = self.ended()
            if status is not None:
                self.hear()  # what the rank said last
                self.end(status)
            if self.stopped and self.left_out():
                text = f"{self.name()} is stopped, and the others go on without it: it is ended"
                os.write(2, f"mpidp: {text}\n".encode())
                os.kill(self.pid, signal.SIGKILL)
                self.stopped = False
            if self.beginning and self.beginning.broken():
                self.beginning.tell(self.rank)
                self.beginning.end()
                os.kill(self.pid, signal.SIGKILL)
                os._exit(LOST)
            if self.connecting and time.monotonic() > self.connecting:
                text = f"{self.name()} has waited {START:g} s for all ranks to start: one is lost, stopped or cut off"
                os.write(2, f"mpidp: error: {text}\n".encode())
                os.kill(self.pid, signal.SIGKILL)
                os._exit(LOST)
            often = self.stopped or self.beginning
            ready, _, _ = select.select(sources, [], [], LOOK_OFTEN if often else LOOK)
            if self.line in ready and not self.hear():
                sources.remove(self.line)
            if woken in ready:
                for number in set(woken.recv(4096)) & set(PASSED_ON):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """The rank's exit code (negative: the signal), None as long as it lives."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return None
            if not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                return os.waitstatus_to_exitcode(status)
            self.stopped = os.WIFSTOPPED(status)

    def left_out(self) -> bool:
        """Whether one of the others has told the stopped rank that the job goes on without it."""
        for peer in self.peers:
            with contextlib.suppress(OSError):
                unread = peer.recv(UNREAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                for line in unread.split(b"\n"):
                    with contextlib.suppress(ValueError):  # empty, or the rest of one
                        kind, value = json.loads(line)
                        if kind == "without" and self.rank in value:
                            return True
        return False

    def name(self) -> str:
        return f"rank {self.rank} ({socket.gethostname()}, pid {self.pid})"

    def hear(self) -> bool:
        """Take what the rank says; whether it may say more."""
        while True:
            try:
                text, descriptors, _, _ = socket.recv_fds(self.line, 4096, FDS_AT_ONCE)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.peers += [socket.socket(fileno=number) for number in descriptors]
            if not text:
                return False
            *lines, self.read = (self.read + text).split(b"\n")
            for said in map(json.loads, filter(None, lines)):
                self.policy, self.told = said.get("policy", self.policy), said.get("told", self.told)
                if "begun" in said:
                    self.beginning = self.connecting = None

    def end(self, code: int) -> NoReturn:
        """Tell the others how the rank ended (negative: by that signal), and end so that they can, or live on."""
        killed = code < 0
        how = ending(code, self.step(), kills_for_memory() > self.kills)
        for peer in self.peers:  # the first break ends a line that the rank may have begun
            with contextlib.suppress(OSError):
                peer.send(b"\n" + json.dumps(["ended", how]).encode() + b"\n")
                peer.shutdown(socket.SHUT_WR)
        connected = bool(self.peers)
        if code:
            self.hear_out()
        if killed and not connected:
            os.write(2, f"mpidp: error: {self.name()} {how}\n".encode())
        if killed and self.beginning:
            self.beginning.end()
        shrink = self.policy == "shrink"
        if killed and shrink:
            finalised()
            os._exit(0)
        if connected and code and not (self.told or shrink):
            time.sleep(LAST_WORDS)
        if not killed:
            os._exit(code)
        os._exit(128 - code if -code in INTERRUPTIONS else LOST)

    def hear_out(self) -> None:
        """Read what the others have sent until they have seen the end, or for a moment.

        A connection that is closed with something unread is reset: then the others do not hear what was said last.
        """
        limit = time.monotonic() + HEAR_OUT
        while self.peers and time.monotonic() < limit:
            for peer in list(self.peers):
                with contextlib.suppress(OSError):
                    if not peer.recv(UNREAD, socket.MSG_DONTWAIT):
                        self.peers.remove(peer)
            time.sleep(0.01)

    def step(self) -> int | None:
        step = struct.unpack_from("q", self.record)[0]
        return None if step < 0 else step


def ending(code: int, step: int | None, out_of_memory: bool) -> str:
    """How a rank ended, in words that follow its name."""
    where = "" if step is None else f", at step {step}"
    if code >= 0:
        return f"ended with exit code {code}{where}"
    number = -code
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
        hint = HINTS.get(number, "")
        if out_of_memory and number == signal.SIGKILL:
            hint = "the system's memory was used up"
        return f"was killed by signal {number} ({name}{': ' * bool(hint)}{hint}){where}"
    return f"was killed by signal {number}{where}"


def finalised() -> None:
    """Tell a launcher that speaks PMI-1 that this process is through with MPI, and wait for its answer."""
    descriptor = os.environ.get("PMI_FD", "")
    if descriptor.isdigit():
        with contextlib.suppress(OSError):
            os.write(int(descriptor), b"cmd=finalize\n")
            if select.select([int(descriptor)], [], [], 2.0)[0]:
                os.read(int(descriptor), 1024)


def kills_for_memory() -> int:
    """How many processes of this control group the system has ended for want of memory, as far as it tells."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        group = next(line[3:] for line in groups if line.startswith("0::"))
        events = Path(f"/sys/fs/cgroup{group}/memory.events").read_text().split()
        return int(events[events.index("oom_kill") + 1])
    return 0
