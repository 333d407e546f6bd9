"""Before the ranks know each other: whether one of this host has ended, where its launcher lets the others wait.

A rank that ends while Python starts leaves the others in MPI_Init for ever: under MPICH's launcher where it ends with
an exit code, for that ends all others for a signal alone; under Open MPI's where that was told to let ranks end, as
`--on-failure shrink` needs it. So each guard counts the ranks of its host until its own is connected with the others.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

RECOVERABLE = (
    "state_base_recoverable"  # of Open MPI's launcher: PRTE_MCA_... in its environment, or --prtemca
)
ULFM = "OMPI_MCA_mpi_ft_enable"  # what Open MPI's `mpirun --with-ft ulfm` sets
LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted", "hydra_pmi_proxy")
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

    def __init__(self, launcher: int, job: bytes, rank_variable: bytes, size: int):
        self.launcher, self.job, self.rank_variable, self.size = launcher, job, rank_variable, size
        self.missed_since: float | None = None

    @classmethod
    def of_this_rank(cls) -> "Beginning | None":
        """None where the launcher itself ends the others when one ends."""
        launcher, size = next(launchers_above(), None), os.environ.get("MPI_LOCALNRANKS", "")  # of MPICH's
        if launcher is None:
            return None
        if size.isdigit() and "PMI_FD" in os.environ:
            return cls(launcher, variable("PMI_SIZE"), b"PMI_RANK=", int(size))
        size = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
        if size.isdigit() and (with_ulfm() or recoverable()):
            return cls(launcher, variable("PMIX_NAMESPACE"), b"OMPI_COMM_WORLD_RANK=", int(size))
        return None

    def here(self) -> list[int]:
        """Which of them live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == self.launcher:
                    variables, name = words(path.with_name("environ")), self.rank_variable
                    if self.job in variables:
                        found += [int(word[len(name) :]) for word in variables if word.startswith(name)]
        return sorted(found)

    def broken(self) -> bool:
        """Whether one of them has ended, for certain."""
        now = time.monotonic()
        if len(self.here()) >= self.size:
            self.missed_since = None
            return False
        self.missed_since = self.missed_since or now
        return now - self.missed_since > PATIENCE

    def tell(self, rank: int) -> None:
        """Say who is left: one of them does."""
        here = self.here()
        if here and rank == here[0]:
            left = ", ".join(map(str, here))
            text = (
                f"of the {self.size} ranks on {socket.gethostname()} only {left} did not end before all were"
            )
            os.write(2, f"mpidp: error: {text} connected, so none can go on\n".encode())

    def end(self) -> None:
        """Have the launcher end the job, by a signal: to itself, or to this process."""
        time.sleep(LAST_WORDS)
        with contextlib.suppress(ProcessLookupError):
            if self.rank_variable == b"PMI_RANK=":
                os.kill(os.getpid(), signal.SIGKILL)
            os.kill(self.launcher, signal.SIGTERM)


def variable(name: str) -> bytes:
    """A variable of this process's environment, as /proc has it."""
    return f"{name}={os.environ.get(name, '')}".encode()


def words(path: Path) -> list[bytes]:
    """What a file of /proc says, of environments and command lines."""
    return path.read_bytes().split(b"\0")
