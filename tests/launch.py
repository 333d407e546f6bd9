"""Real MPI ranks from plain pytest: `run_ranks(4, ["-m", "mpidp.doctor"])`, with a time limit."""

import contextlib
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import mpidp
from mpidp.machine import shared_memory_leftovers

ROOT = Path(__file__).parents[1]
LAUNCHER_PREFIXES = (
    "PMI_",
    "PMIX_",
    "OMPI_",
    "PRTE_",
    "SLURM_",
    "HYDRA_",
    "HYDI_",
    "MPIR_CVAR_",
    "MPI_LOCAL",
)
MARK = "MPIDP_TEST_LAUNCH"
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    # Open MPI alone reads these: root, and more ranks than cores, are what a test machine has.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass
class Finished:
    """What a launch ended with: `returncode` of mpiexec, all that its ranks printed, and how long it took."""

    command: list[str]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def check(self) -> "Finished":
        """This, if the exit code is 0; else the test fails and shows what was printed."""
        if self.returncode:
            pytest.fail(f"exit code {self.returncode}\n{self}", pytrace=False)
        return self

    def __str__(self) -> str:
        return f"$ {' '.join(self.command)}\n{self.stdout[-6000:]}\n-- stderr --\n{self.stderr[-6000:]}"


def find_mpiexec() -> str | None:
    """The launcher that belongs to this environment, else the one on PATH, else None."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec") or shutil.which("mpirun")


def launch_environment(env: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """This process's environment without what a launcher left in it; `env` on top, where None removes a variable."""
    result = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)} | SETTINGS
    package = str(Path(mpidp.__file__).parents[1])
    if package not in site.getsitepackages():  # run from a checkout that need not be installed
        result["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    for name, value in (env or {}).items():
        result.pop(name, None)
        if value is not None:
            result[name] = value
    return result


def run_ranks(
    n: int,
    args: Sequence[str | os.PathLike[str]],
    timeout: float = 60.0,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Finished:
    """`mpiexec -n n python *args`; skips the test, with the reason, where there is no MPI launcher.

    After `timeout` seconds every process of the launch is ended and the test fails, showing what was printed.
    """
    mpiexec = find_mpiexec()
    if mpiexec is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    return run_program([mpiexec, "-n", str(n), sys.executable, *map(str, args)], timeout, env, cwd)


def run_alone(
    args: Sequence[str | os.PathLike[str]],
    timeout: float = 60.0,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Finished:
    """`python *args` without a launcher, under the same rules as `run_ranks`."""
    return run_program([sys.executable, *map(str, args)], timeout, env, cwd)


def run_program(
    command: list[str],
    timeout: float,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Finished:
    mark = uuid.uuid4().hex
    segments = set(shared_memory_leftovers())
    # Files, not pipes: a process that outlives the launcher cannot keep us reading.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=launch_environment(env) | {MARK: mark},
            cwd=cwd or ROOT,
            start_new_session=True,
        )
        late = False
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            end_launch(process, mark)
        seconds = time.monotonic() - began
        if process.returncode:  # MPI libraries tidy up when they are finalised, and not when they are aborted
            for path in set(shared_memory_leftovers()) - segments:
                path.unlink(missing_ok=True)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    finished = Finished(command, process.returncode, *texts, seconds)
    if late:
        pytest.fail(f"still running after its limit of {timeout:g} s\n{finished}", pytrace=False)
    return finished


def end_launch(process: subprocess.Popen[bytes], mark: str) -> None:
    """End what is left of a launch: politely first, since a launcher tidies up on SIGTERM."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        left = marked_processes(mark)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        limit = time.monotonic() + patience
        while left and time.monotonic() < limit:
            process.poll()
            left = marked_processes(mark)
            time.sleep(0.02)
    process.wait(10)


def marked_processes(mark: str) -> list[int]:
    """The living processes that inherited this mark in their environment.

    Neither the process group nor the session would do: MPICH's launcher gives each rank a session of its own.
    """
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    members.append(int(entry.name))
    return members
