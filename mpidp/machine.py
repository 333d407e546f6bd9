"""What this process may use of its machine, read from the system: cores, memory, BLAS, shared memory, devices."""

import contextlib
import importlib.util
import io
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadpoolctl

CGROUP = Path("/sys/fs/cgroup")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
SHARED_MEMORY = Path("/dev/shm")
LEFTOVERS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*", "psm2_shm.*")
"""Names of the segments that killed MPI jobs leave in /dev/shm (MPICH; Open MPI; its predecessors; PSM2)."""


def cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def usable_cores() -> list[int]:
    """The cores of `cores()`, as many as the container's limit on their time lets run at once."""
    quota = core_quota()
    return cores() if quota is None else cores()[: int(quota)]


def core_quota() -> float | None:
    """How many cores' worth of time the container allows, None where it sets no limit."""
    limit, _, period = (_read(CGROUP / "cpu.max") or "max").partition(" ")
    return None if limit == "max" else int(limit) / int(period or 100_000)


def memory_available() -> int | None:
    """Bytes that can still be allocated without swapping, the container's limit included; None where unknown."""
    left = []
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    if limit.isdigit() and used.isdigit():
        left.append(max(int(limit) - int(used), 0))
    return min(left, default=None)


def shared_memory_free() -> int | None:
    """Bytes free in /dev/shm, where ranks of one machine meet; None where there is no such folder."""
    if not SHARED_MEMORY.is_dir():
        return None
    stat = os.statvfs(SHARED_MEMORY)
    return stat.f_bavail * stat.f_frsize


def shared_memory_leftovers() -> list[Path]:
    """Segments of MPI jobs in /dev/shm that belong to this user and that no living process has mapped."""
    found = [
        path for pattern in LEFTOVERS for path in SHARED_MEMORY.glob(pattern) if _owner(path) == os.getuid()
    ]
    if not found:
        return []
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        mapped.update(line.split(maxsplit=5)[-1] for line in _read(maps).splitlines() if "/dev/shm/" in line)
    return sorted(path for path in found if str(path) not in mapped)


def shared_memory_mapped(pattern: str = "*") -> list[Path]:
    """The files in /dev/shm that this process has mapped and that still have a name, which fits the pattern."""
    maps = _read(Path("/proc/self/maps")).splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in maps if f" {SHARED_MEMORY}/" in line}
    return [Path(path) for path in sorted(paths) if Path(path).match(pattern) and Path(path).exists()]


def terminal_columns() -> int | None:
    """The width of the terminal on which this process's standard output ends, None where it ends on none.

    Under a launcher the launcher's own output is what counts: MPICH's gives ranks a pipe although a person watches,
    Open MPI's gives them a terminal although its output goes to a file.
    """
    path = Path("/proc/self/fd/1")
    pid = os.getppid()
    while pid > 1:
        status = _read(Path(f"/proc/{pid}/stat"))
        name = status.partition("(")[2].rpartition(")")[0]
        if name.startswith(("mpiexec", "mpirun", "prterun", "orterun", "srun")):
            path = Path(f"/proc/{pid}/fd/1")
        fields = status.rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    try:
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return (os.get_terminal_size(terminal).columns or 80) if os.isatty(terminal) else None
    except OSError:
        return None
    finally:
        os.close(terminal)


def print_anything() -> None:
    """Have what the encoding of standard output lacks (an arrow, in Latin-1) shown as ?, instead of as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@dataclass
class Blas:
    """The library under NumPy's matrix products."""

    name: str
    version: str
    threads: int
    kernel: str


def blas() -> Blas | None:
    """NumPy's BLAS as threadpoolctl finds it, None where it finds none."""
    import numpy
    from threadpoolctl import threadpool_info

    folders = [str(Path(numpy.__file__).parent), str(Path(numpy.__file__).parent) + ".libs"]
    pools = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    pools.sort(key=lambda pool: not pool.get("filepath", "").startswith(tuple(folders)))
    if not pools:
        return None
    best = pools[0]
    return Blas(
        best["internal_api"],
        str(best.get("version")),
        int(best["num_threads"]),
        str(best.get("architecture", "?")),
    )


@dataclass(frozen=True)
class Gpu:
    """One that CuPy can compute on; bytes of memory."""

    name: str
    capability: str  # as CuPy says it: 90 for 9.0
    free: int
    total: int


@dataclass
class Devices:
    """What CuPy finds: `error` says, in one line, why it can use no device. Versions of CUDA as 13010 for 13.1."""

    cupy: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: int = 0  # the newest CUDA that the driver knows
    cuda: int = 0  # that CuPy was built for
    error: str = ""


def driver_present() -> bool:
    """Has this machine an NVIDIA driver loaded?"""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def devices() -> Devices:
    """The CUDA devices that CuPy can compute on, made sure of by a sum on the first."""
    if importlib.util.find_spec("cupy") is None:
        return Devices(error="CuPy is not installed")
    found = Devices()
    try:
        import cupy

        found.cupy = cupy.__version__
        runtime, device = cupy.cuda.runtime, cupy.cuda.Device
        found.driver, found.cuda = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        found.gpus = tuple(
            Gpu(
                runtime.getDeviceProperties(i)["name"].decode(),
                device(i).compute_capability,
                *device(i).mem_info,
            )
            for i in range(runtime.getDeviceCount())
        )
        if found.gpus and int(cupy.arange(5).sum().get()) != 10:
            found.error = "a sum computed on the device is wrong"
    except Exception as error:  # whatever is broken in a CUDA set-up is what we are asked to report
        found.error = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def facts() -> dict[str, Any]:
    """What one rank tells the others about where it runs, as JSON-able values."""
    import mpidp

    return {
        "host": socket.gethostname(),
        "cores": cores(),
        "installed_cores": os.cpu_count() or 1,
        "quota": core_quota(),
        "memory": memory_available(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "mpidp": mpidp.__version__,
    }


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _owner(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_uid
    return None


def pin_threads(threads: int | None, alone: bool) -> None:
    """BLAS threads of this rank: 1, or all cores where one rank is alone, unless the environment says otherwise.

    Ranks of one host share its cores, and a thread that waits for another rank's thread is worse than none.
    """
    if threads is None:
        if any(name in os.environ for name in THREAD_VARIABLES):
            return
        threads = len(cores()) if alone else 1
    threadpoolctl.threadpool_limits(threads)
