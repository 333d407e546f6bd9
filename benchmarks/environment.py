"""Where a benchmark ran: recorded beside every figure, since figures of two machines do not compare."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from mpidp import machine
from mpidp.comm.probe import library
from mpidp.machine import THREAD_VARIABLES

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """CPU, cores, memory, versions, threads, git commit, load and date, as JSON-able values.

    May be called with MPI started or not, and does not start it. `commit` ends in "+" where mpidp/ or benchmarks/
    differ from it; `load` is the machine's over the last minute, in processes that want a core.
    """
    blas, mpi = machine.blas(), library()
    return {
        "cpu": cpu_model(),
        "bfloat16": bfloat16_units(),
        "cores": len(machine.cores()),
        "core_quota": machine.core_quota(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "blas": f"{blas.name} {blas.version} ({blas.kernel})" if blas else None,
        "mpi": mpi.error or f"{mpi.vendor} {mpi.version}, mpi4py {mpi.mpi4py}",
        "torch": version("torch"),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "blas_threads": blas.threads if blas else None,  # of the process that calls this
        "commit": commit(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """The processor's name and, since hypervisors shorten it, its family and model numbers."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(errors="replace") if path.exists() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def bfloat16_units() -> list[str]:
    """The processor's instructions for bfloat16: avx512_bf16 (vectors), amx_bf16 (matrices)."""
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text(errors="replace").split()) if path.exists() else set()
    return sorted(flags & {"avx512_bf16", "amx_bf16"})


def version(name: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, with "+" where the measured sources differ from it; None outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        return head + ("+" if _git("status", "--porcelain", "--", "mpidp", "benchmarks").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
