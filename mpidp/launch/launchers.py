"""mpirun and srun: how each is told what to start, where, and what it needs besides."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpidp.comm import probe
from mpidp.errors import UserError
from mpidp.failure_options import SHRINK, SUPERVISED

OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
"""Without these Open MPI's mpirun refuses root and more ranks than cores, as MPICH's does not; others ignore them."""

RECOVERABLE = {"PRTE_MCA_state_base_recoverable": "1"}
"""Open MPI's mpirun then lets the others live when a rank is killed."""

FORWARDED = (SUPERVISED, "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that Open MPI's mpirun takes along to other hosts; the other launchers take all."""

Hosts = Mapping[str, int]
"""How many ranks each host may have, in the order in which they are filled."""


@dataclass
class Launcher:
    """A launcher program and the options of its own that the user adds."""

    path: str
    options: Sequence[str] = ()

    @property
    def kind(self) -> str:
        """srun, Open MPI, or MPICH for all that are called as its mpirun is."""
        if Path(self.path).name.startswith("srun"):
            return "srun"
        _, text = probe.run([self.path, "--version"], 10)
        return "Open MPI" if probe.is_open_mpi(text.replace("-", " ")) else "MPICH"

    def command(self, ranks: int, hosts: Hosts, program: Sequence[str]) -> list[str]:
        """What starts `program` on so many ranks, on these hosts one after the other (none: here, or as it will)."""
        placed = place(ranks, hosts)
        counts = ",".join(f"{host}:{count}" for host, count in placed.items())
        where: list[str] = []
        match self.kind:
            case "srun":
                where = ["--kill-on-bad-exit=1"]
                if placed:
                    where += [
                        f"--nodes={len(placed)}",
                        f"--nodelist={','.join(placed)}",
                        "--distribution=block",
                    ]
            case "Open MPI":
                where = [word for name in FORWARDED if name in os.environ for word in ("-x", name)]
                where += ["--host", counts] if placed else []
            case _:
                where = ["-hosts", counts] if placed else []
        return [self.path, *self.options, *where, "-n", str(ranks), *program]


def find(path: str | None, options: str) -> Launcher:
    """The launcher that the user names, else the mpirun of this environment or on PATH, else srun.

    Raises UserError where there is none.
    """
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UserError(f"--launcher-args {options}: {error}") from None
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise UserError(f"--launcher {path}: there is no such program")
        return Launcher(found, words)
    known = probe.launcher()
    if known is not None:  # the ranks' library is that of this Python's environment
        return Launcher(str(Path(sys.prefix) / "bin" / "mpirun") if known.stray else known.path, words)
    slurm = shutil.which("srun")
    if slurm is None:
        raise UserError(
            "there is no mpirun, neither in this environment nor on PATH, and no srun: pip install 'mpidp[mpich]', "
            "load your cluster's MPI module, or name one by --launcher"
        )
    return Launcher(slurm, words)


def environment(policy: str) -> dict[str, str]:
    """Of the launcher: ours, without what another launcher left in it, and with what its kind needs."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(probe.LAUNCHER_PREFIXES)}
    return OPEN_MPI | (RECOVERABLE if policy == SHRINK else {}) | ours | {SUPERVISED: str(os.getpid())}


def parse_hosts(text: str | None, ranks: int) -> dict[str, int]:
    """Hosts as the user names them (`A,B` or `A:2,B:1`), each with how many ranks it may have. Raises UserError."""
    if text is None:
        return {}
    counts: dict[str, int | None] = {}
    for item in text.split(","):
        host, colon, count = item.strip().partition(":")
        if not host or host in counts or (colon and not (count.isdigit() and int(count) > 0)):
            raise UserError(
                f"--hosts {text}: must be names, each once, as A,B, or with numbers of ranks, as A:2,B:1"
            )
        counts[host] = int(count) if colon else None
    said = sum(count or 0 for count in counts.values())
    silent = [host for host, count in counts.items() if count is None]
    shares = {host: (ranks - said + i) // len(silent) for i, host in enumerate(reversed(silent))}
    hosts = {host: count or shares[host] for host, count in counts.items()}
    if sum(hosts.values()) < ranks or min(hosts.values()) < 1:
        raise UserError(f"--hosts {text}: these hosts do not take {ranks} ranks with at least one each")
    return hosts


def place(ranks: int, hosts: Hosts) -> dict[str, int]:
    """How many ranks each host gets: as many as it may have, one host after the other."""
    placed, left = {}, ranks
    for host, most in hosts.items():
        if left > 0:
            placed[host] = min(most, left)
            left -= placed[host]
    return placed


def answering(launcher: Launcher, hosts: Hosts, seconds: float) -> dict[str, int]:
    """Those of the hosts on which the launcher can start something within so many seconds."""
    tries = {}
    for host in hosts:
        tries[host] = subprocess.Popen(
            launcher.command(1, {host: 1}, ["true"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(policy=""),
            start_new_session=True,
        )
    found = {}
    for host, process in tries.items():
        try:
            if process.wait(seconds) == 0:
                found[host] = hosts[host]
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return found
