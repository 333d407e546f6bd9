"""Before the ranks know each other: whether one of this host has ended, where its launcher lets the others wait.

Open MPI's launcher, told to let ranks end (as `--on-failure shrink` needs it), does so from the first moment on: those
that are in MPI_Init then wait for ever for one that died while Python started. So each guard counts the ranks of its
host until its own is connected with the others.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path

RECOVERABLE = (
    "state_base_recoverable"  # of Open MPI's launcher: PRTE_MCA_... in its environment, or --prtemca
)
ULFM = "OMPI_MCA_mpi_ft_enable"  # what Open MPI's `mpirun --with-ft ulfm` sets
LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted")
PATIENCE = 5.0  # seconds for which one is missing: launchers start ranks one after the other
LAST_WORDS = 0.5  # seconds that a launcher has to pass on what its ranks have said


def launchers_above() -> Iterator[int]:
    """The launcher's processes that this one descends from, the nearest first."""
    pid = os.getppid()
    with contextlib.suppress(OSError):
        while pid > 1:
            name, rest = (Path("/proc") / str(pid) / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            if name.startswith(LAUNCHERS):
                yield pid
            pid = int(rest.split()[1])


def recoverable() -> bool:
    """Whether Open MPI's launcher was told to let ranks end. It tells its ranks nothing of it, but they may look."""
    for pid in launchers_above():
        try:
            process = Path(f"/proc/{pid}")
            said = [*words(process / "environ"), *words(process / "cmdline")]
        except OSError:
            return False
        if any(RECOVERABLE.encode() in word and not word.endswith(b"=0") for word in said):
            return True
    return False


def with_ulfm() -> bool:
    """Whether Open MPI was started with its fault tolerance (ULFM) switched on."""
    return os.environ.get(ULFM, "").lower() in ("1", "true", "ulfm", "mpi")


class Beginning:
    """The ranks that a launcher has started on this host."""

    def __init__(self, launcher: int, job: bytes, size: int):
        self.launcher, self.job, self.size = launcher, job, size
        self.missed_since: float | None = None

    @classmethod
    def of_this_rank(cls) -> "Beginning | None":
        """None where the launcher itself ends the others when one ends."""
        size, launcher = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", ""), next(launchers_above(), None)
        if not size.isdigit() or launcher is None or not (with_ulfm() or recoverable()):
            return None
        return cls(launcher, f"PMIX_NAMESPACE={os.environ.get('PMIX_NAMESPACE', '')}".encode(), int(size))

    def here(self) -> set[int]:
        """Which of them live, by their numbers on this host."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == self.launcher:
                    variables = words(path.with_name("environ"))
                    name = b"OMPI_COMM_WORLD_LOCAL_RANK="
                    if self.job in variables:
                        found |= {int(word[len(name) :]) for word in variables if word.startswith(name)}
        return found

    def missing(self) -> set[int]:
        """Which of them have ended; empty until that is certain."""
        here, now = self.here(), time.monotonic()
        if len(here) >= self.size:
            self.missed_since = None
            return set()
        self.missed_since = self.missed_since or now
        return set(range(self.size)) - here if now - self.missed_since > PATIENCE else set()

    def end(self, missing: Collection[int] = ()) -> None:
        """Tell the launcher to end the job; one rank of those that live says who is missing."""
        if missing and os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK") == str(min(self.here(), default=0)):
            names = f"number {', '.join(map(str, sorted(missing)))} of the {self.size} ranks on this host"
            text = (
                f"{names} ({socket.gethostname()}) has ended before the ranks were connected: none can go on"
            )
            os.write(2, f"mpidp: error: {text}\n".encode())
        time.sleep(LAST_WORDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.launcher, signal.SIGTERM)


def words(path: Path) -> list[bytes]:
    """What a file of /proc says, of environments and command lines."""
    return path.read_bytes().split(b"\0")
