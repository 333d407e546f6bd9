"""Questions about the MPI at hand that must be answered before, or without, starting it.

`python -m mpidp.comm.probe`, launched on a few ranks, prints a line from each:
`mpidp-probe RANK SIZE GPU_AWARE`.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mpidp.comm.world import LAUNCHER_VARIABLES, OPEN_MPI_SETTINGS

LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "OMPI_MCA_orte", "PRTE_LAUNCHED", "MPI_LOCAL")
"""Variables by which a launcher tells a process who it is."""


@dataclass
class Library:
    """The MPI library that mpi4py opens; `error` says why it opens none."""

    vendor: str = ""
    version: str = ""
    standard: str = ""
    path: str = ""
    mpi4py: str = ""
    error: str = ""


def library() -> Library:
    """Load the MPI library through mpi4py without starting it; `initialise` starts it.

    Only for a process that has not imported `mpi4py.MPI` yet (else it is started already, which does no harm).
    """
    found = Library()
    try:
        import mpi4py

        found.mpi4py = mpi4py.__version__
        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        found.error = str(error).splitlines()[0]
        return found
    vendor, version = MPI.get_vendor()
    found.vendor = vendor
    found.version = ".".join(map(str, version))
    found.standard = ".".join(map(str, MPI.Get_version()))
    found.path = _path_of_library()
    return found


def initialise() -> tuple[int, int]:
    """Start the library that `library` loaded: this process's rank, and the number of ranks it sees."""
    for name, value in OPEN_MPI_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mpi4py import MPI

    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size


def gpu_aware(path: str) -> bool | None:
    """What the library at `path` says about arrays in device memory; None where it cannot be asked, or is not started.

    MPICH ends a process that asks too early, as one does whose ranks are threads.
    """
    with contextlib.suppress(OSError, AttributeError):
        mpi, started = ctypes.CDLL(path), ctypes.c_int()
        mpi.MPI_Initialized(ctypes.byref(started))
        return bool(mpi.MPIX_Query_cuda_support()) if started.value else None
    return None


def is_open_mpi(vendor: str) -> bool:
    """Does this vendor's library belong to Open MPI's family (else to MPICH's, as the rest of the world does)?"""
    return "open mpi" in vendor.lower() or "spectrum" in vendor.lower()


def mismatch(vendor: str) -> str:
    """Which launcher started this process, if it is surely not that of the vendor's library; else "".

    To be asked before starting MPI: MPICH's library under Open MPI's mpirun aborts, and Open MPI's under MPICH's
    mpirun believes that each rank is alone. Slurm's srun serves both, so it is never called wrong here.
    """
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return ""
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return "" if is_open_mpi(vendor) else LAUNCHER_VARIABLES["OMPI_COMM_WORLD_SIZE"]
    if "PMI_SIZE" in os.environ:
        return LAUNCHER_VARIABLES["PMI_SIZE"] if is_open_mpi(vendor) else ""
    return ""


@dataclass
class Launcher:
    """A launcher program; `stray` says that this environment has one that is not the first on PATH."""

    path: str
    vendor: str
    stray: bool = False


def launcher() -> Launcher | None:
    """The mpirun on PATH, else the one of this environment, else None."""
    beside = Path(sys.prefix) / "bin" / "mpirun"
    path = shutil.which("mpirun") or shutil.which("mpiexec")
    chosen = path or (str(beside) if beside.exists() else None)
    if chosen is None:
        return None
    stray = beside.exists() and (path is None or not os.path.samefile(beside, chosen))
    code, text = run([chosen, "--version"], 10)
    vendors = {"open mpi": "Open MPI", "open-mpi": "Open MPI", "hydra": "MPICH", "intel": "Intel MPI"}
    known = next((name for word, name in vendors.items() if word in text.lower()), "")
    return Launcher(chosen, known if code == 0 or known else "", stray)


@dataclass
class Trial:
    """What came of starting `ranks` ranks: the exit code, all that was printed, the size that each saw, and what
    the library said about arrays in device memory (see `gpu_aware`)."""

    ranks: int
    code: int
    text: str
    sizes: tuple[int, ...]
    gpu_aware: bool | None


def trial(path: str, ranks: int = 2, seconds: float = 30) -> Trial:
    """Start a few ranks with this launcher and let each say how many it sees."""
    code, text = run([path, "-n", str(ranks), sys.executable, "-m", "mpidp.comm.probe"], seconds)
    answers = re.findall(r"mpidp-probe \d+ (\d+) (True|False|None)", text)
    aware = {"True": True, "False": False}.get(answers[0][1]) if answers else None
    return Trial(ranks, code, text, tuple(int(size) for size, _ in answers), aware)


def run(command: list[str], seconds: float) -> tuple[int, str]:
    """(exit code, all that was printed) of a program that is ended after so many seconds (code 124)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_PREFIXES)}
    with (
        tempfile.TemporaryFile() as output
    ):  # not a pipe: a process that outlives the program cannot keep us waiting
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            return 126, str(error)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = 124
            process.terminate()  # a launcher ends its ranks
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _path_of_library() -> str:
    """Where the loaded libmpi lies; "" where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if re.match(r"libmpi(_\w+)?\.so|libmpich\.so", Path(path).name):
                return path
    return ""


if __name__ == "__main__":
    _library = library()
    if _library.error:
        sys.exit(_library.error)
    _rank, _size = initialise()
    os.write(
        1, f"mpidp-probe {_rank} {_size} {gpu_aware(_library.path)}\n".encode()
    )  # whole: not mixed with others'
