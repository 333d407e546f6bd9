"""When the ranks are started again, how many of them, where, and from what on."""

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpidp import checkpoint
from mpidp.checkpoint.background import SEEN_LATE
from mpidp.comm.endings import say
from mpidp.commandline import expanded, parse
from mpidp.config import resolve
from mpidp.errors import UserError
from mpidp.failure_options import ABORT, RESTART
from mpidp.launch.attempt import Attempts
from mpidp.launch.launchers import Hosts, answering, environment, find, parse_hosts, place
from mpidp.options import option
from mpidp.workspace import RECORDS, choose

DONE, LOST, MISTAKE, STOPPED = 0, 1, 2, (3, 130, 143)
LONGEST_WAIT = 300.0  # seconds
TRIES = 2  # of one number of ranks, without a new checkpoint, before fewer are tried


@dataclass
class LaunchOptions:
    """How many ranks, where, and what is done when they fail."""

    ranks: int = option(help="how many ranks to start", minimum=1, metavar="P")
    hosts: str | None = option(
        None, "where, one host after the other; with how many ranks each may have: A:2,B:2", metavar="A,B"
    )
    max_restarts: int = option(
        5, "give up after so many restarts without a new checkpoint in between", minimum=0
    )
    min_ranks: int = option(
        1, "go down to so many ranks where a host is gone, or more ranks fail again and again", minimum=1
    )
    backoff: float = option(
        1.0,
        "seconds before a restart, twice as many before each further one without a new checkpoint",
        minimum=0,
    )
    host_timeout: float = option(20.0, "seconds that a host has to answer before a restart", above=0)
    launcher: str | None = option(
        None, "mpirun or srun (default: the mpirun of this environment)", metavar="PATH"
    )
    launcher_args: str = option("", "more options for it, in one word")

    def __post_init__(self) -> None:
        if self.min_ranks > self.ranks:
            raise UserError(
                f"--min-ranks {self.min_ranks}: more than the {self.ranks} ranks that are started"
            )


class Supervisor:
    """Starts the ranks, and again as long as that may help. Raises UserError where the options allow no start."""

    def __init__(self, options: LaunchOptions, program: Sequence[str], arguments: Sequence[str]):
        self.options = options
        self.launcher = find(options.launcher, options.launcher_args)
        self.hosts = parse_hosts(options.hosts, options.ranks)
        given, file, preset = parse(arguments)
        user = file | given
        said = preset | user
        self.policy = str(said.get("on-failure", RESTART))
        self.saves = "checkpoint-every" in said
        self.resuming = bool(user.get("resume"))
        self.command = [sys.executable, *program, *arguments, "--on-failure", self.policy]
        if self.resuming:
            self.folder = expanded(str(user.get("run-dir", "")))  # the ranks refuse it where none is named
        else:
            self.folder = Path(choose(resolve(user | {"on-failure": self.policy}, preset), resuming=False))
            self.command += ["--run-dir", str(self.folder)]

    def run(self) -> int:
        """Train to the end, or until there is no use in trying again; the exit code of the last attempt."""
        options, attempts = self.options, Attempts()
        most, ranks, hosts = options.ranks, options.ranks, dict(self.hosts)
        failures = tries = 0  # in a row, without a new checkpoint; of these, with so many ranks
        if self.policy != ABORT and not (self.saves or self.resuming):
            say("without --checkpoint-every N nothing is saved, and a restart begins at the beginning")
        code = DONE
        while True:
            before = self.saved()
            if ranks >= options.min_ranks:
                code = self.attempt(attempts, ranks, hosts, again=failures > 0)
            if attempts.stopped or self.policy == ABORT or self.final(code, ranks):
                return code
            if self.saved() != before:
                failures = tries = 0
            failures, tries = failures + 1, tries + 1
            if failures > options.max_restarts:
                say(
                    f"{ended(code)}: given up after {failures - 1} restarts without a new checkpoint in between"
                )
                return code
            if (code == MISTAKE or tries == TRIES) and ranks > options.min_ranks:  # so many will not do
                most, tries = ranks - 1, 0
            wait = min(options.backoff * 2 ** (failures - 1), LONGEST_WAIT)
            say(
                f"{ended(code)}: restart {failures} of {options.max_restarts} with {most} ranks {self.whence()} "
                f"in {wait:g} s"
            )
            attempts.sleep(wait)
            if attempts.stopped is None:
                ranks, hosts = self.available(most)
            if attempts.stopped is not None:
                return 128 + attempts.stopped

    def final(self, code: int, ranks: int) -> bool:
        """Whether the ranks ended so that no restart is wanted, or that none can help."""
        if code == MISTAKE:  # of the user; or that the job cannot be done by fewer ranks than asked for
            return ranks in (self.options.ranks, self.options.min_ranks)
        return code == DONE or code in STOPPED

    def available(self, most: int) -> tuple[int, Hosts]:
        """How many ranks can be started, of so many at most, and on which hosts."""
        if not self.hosts:
            return most, {}
        hosts = answering(self.launcher, self.hosts, self.options.host_timeout)
        ranks = min(most, sum(hosts.values()))
        gone = ", ".join(host for host in self.hosts if host not in hosts)
        if ranks < self.options.min_ranks:
            say(f"no answer from {gone}: {ranks} ranks are left, and --min-ranks is {self.options.min_ranks}")
        elif gone:
            say(f"no answer from {gone}: {ranks} ranks on {', '.join(place(ranks, hosts))}")
        return ranks, hosts

    def attempt(self, attempts: Attempts, ranks: int, hosts: Hosts, again: bool) -> int:
        """Start so many ranks there, from the last checkpoint where there is one; the exit code."""
        program = list(self.command)
        if again and self.saved() is not None:
            program += [] if self.resuming else ["--resume"]
        elif again and not self.resuming:
            for name in RECORDS:  # of an attempt of ours that saved nothing: there was no run in this folder
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink()
        command = self.launcher.command(ranks, hosts, program)
        before, elsewhere = self.finished(), len(place(ranks, hosts)) > 1
        code = attempts.run(command, environment(self.policy), elsewhere)
        if attempts.cut_off and self.finished() not in (None, before):
            return (
                DONE  # a launcher that waits for a host that is gone cannot say that the others have finished
            )
        if code == DONE and elsewhere and not self.finishes(before):
            return LOST  # Open MPI's, which had lost a host, was seen to say that all is well
        return code

    def saved(self) -> str | None:
        """The name of the last complete checkpoint."""
        found = checkpoint.complete(self.folder / "checkpoints")
        return found[-1].name if found else None

    def finished(self) -> int | None:
        """When a run in this folder has written the last of its files, None where none has."""
        with contextlib.suppress(OSError):
            return (self.folder / "summary.json").stat().st_mtime_ns
        return None

    def finishes(self, before: int | None) -> bool:
        """Whether the run has written its last file, which another host may have done: that shows late."""
        limit = time.monotonic() + SEEN_LATE
        while (finished := self.finished()) in (None, before) and time.monotonic() < limit:
            time.sleep(0.1)
        return finished not in (None, before)

    def whence(self) -> str:
        """Where a restart goes on, for a message."""
        saved = self.saved()
        return "from the beginning" if saved is None else f"from {saved}"


def ended(code: int) -> str:
    """How the ranks ended, for a message. MPICH's launcher gives a killing signal's number, others 128 more."""
    number = code - 128 if code > 128 else code
    with contextlib.suppress(ValueError):
        if code > 3:
            return f"the ranks ended by {signal.Signals(number).name} (exit code {code})"
    return f"the ranks ended with exit code {code}"
