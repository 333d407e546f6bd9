"""Start the ranks of a small run, kill one of them, and wait for the end: what became of it all."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.victim import Fault
from tests.launch import MARK, ROOT, find_mpiexec, launch_environment, marked_processes

LIMIT = 90.0  # seconds: beyond it, a run hangs
STARTING = 1.0  # seconds after the launch within which a process is killed before the run trains
PROGRAM = ["-m", "tests.faults.victim"]
RANK_VARIABLES = (b"PMI_RANK=", b"OMPI_COMM_WORLD_RANK=")


@dataclass(frozen=True)
class Blow:
    """SIGKILL from outside, to a process of a rank: while the run trains, or before that."""

    early: bool
    after: float  # seconds after the launch, or after training has begun
    guards: bool  # the guard in front of the rank may be the one


@dataclass
class Ended:
    code: int
    stdout: str
    stderr: str
    seconds: float
    late: bool
    struck: int | None  # the rank that was killed from outside
    processes: list[str]  # that it left
    segments: list[str]  # in /dev/shm

    def summary(self) -> dict:
        for line in reversed(self.stdout.splitlines()):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    return found
        return {}


def plain(ranks: int, arguments: Sequence[str]) -> list[str]:
    """The command that starts them by the launcher alone."""
    return [find_mpiexec() or "mpiexec", "-n", str(ranks), sys.executable, *PROGRAM, *arguments]


def supervised(ranks: int, arguments: Sequence[str]) -> list[str]:
    """By `mpidp.launch`."""
    code = f"import sys; from mpidp.launch.__main__ import main; sys.exit(main(sys.argv[1:], {PROGRAM}))"
    return [sys.executable, "-c", code, "-n", str(ranks), "--backoff", "0.05", "--", *arguments]


def launch(command: list[str], folder: Path, fault: Fault, blow: Blow | None, draw: random.Random) -> Ended:
    """Start it; `fault` or `blow` kills. folder: the run's."""
    mark = uuid.uuid4().hex
    environment = launch_environment(fault.to_env()) | {MARK: mark}
    if "shrink" in command:
        environment["PRTE_MCA_state_base_recoverable"] = "1"
    with tempfile.TemporaryDirectory(prefix="mpidp-faults-") as text:
        files = [Path(text) / name for name in ("out", "err", "shm")]
        began = time.monotonic()
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = subprocess.Popen(
                [*with_own_memory(files[2]), *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=ROOT, start_new_session=True,
            )  # fmt: skip
            late, struck = False, None
            try:
                if blow:
                    struck = strike(blow, process, mark, folder, draw)
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                late = True
            seconds = time.monotonic() - began
            left = processes_left(mark, 5.0 if not late else 0.0)
            process.wait(10)
        segments = files[2].read_text().split() if files[2].exists() else []
        out_text, err_text = (file.read_text(errors="replace") for file in files[:2])
    return Ended(process.returncode, out_text, err_text, seconds, late, struck, left, segments)


def strike(blow: Blow, process: subprocess.Popen, mark: str, folder: Path, draw: random.Random) -> int | None:
    """Kill when it is time to; the rank, or None where the run has ended before."""
    limit = time.monotonic() + LIMIT
    # Made when the run begins to train: then its ranks know what to do without one of them.
    while not blow.early and not (folder / "metrics.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(blow.after)
    while process.poll() is None and time.monotonic() < limit:
        ranks = dict(rank_processes(mark, blow.guards))
        if ranks:
            pid = draw.choice(sorted(ranks))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return ranks[pid]
        time.sleep(0.01)
    return None


def rank_processes(mark: str, guards: bool) -> list[tuple[int, int]]:
    """(process, rank): those of a run that belong to a rank; without `guards`, only those behind one."""
    found = []
    for pid in marked_processes(mark):
        with contextlib.suppress(OSError, IndexError):
            process = Path(f"/proc/{pid}")
            variables = (process / "environ").read_bytes().split(b"\0")
            ranks = [int(word.partition(b"=")[2]) for word in variables if word.startswith(RANK_VARIABLES)]
            ours = ranks and PROGRAM[-1].encode() in (process / "cmdline").read_bytes()
            if ours and (guards or is_guarded(process)):
                found.append((pid, ranks[0]))
    return found


def is_guarded(process: Path) -> bool:
    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{parent}/comm").read_text().strip() == "mpidp-guard"


def with_own_memory(listing: Path) -> list[str]:
    """What runs a command with a /dev/shm of its own, and lists what is left there, where this user may have one."""
    script = 'mount -t tmpfs tmpfs /dev/shm && { "$@"; code=$?; ls -A /dev/shm >"$LISTING"; exit $code; }'
    allowed = shutil.which("unshare") and os.geteuid() == 0
    if (
        not allowed
        or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode
    ):
        return []
    return ["env", f"LISTING={listing}", "unshare", "--mount", "sh", "-c", script, "sh"]


def processes_left(mark: str, patience: float) -> list[str]:
    """Those that live on `patience` seconds after the launcher, ended."""
    limit = time.monotonic() + patience
    while (left := marked_processes(mark)) and time.monotonic() < limit:
        time.sleep(0.02)
    names = []
    for pid in left:
        with contextlib.suppress(OSError):
            names.append(
                f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ')[:60]!r}"
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return names
