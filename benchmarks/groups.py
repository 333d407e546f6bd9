"""Groups of long-lived measured processes that work in turn, on the word of this process, and sleep in between."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",  # all ranks are on this machine
    # Open MPI alone reads these: run as root, and more processes than cores (all but two of which sleep).
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
PATIENCE = 5.0  # seconds that a group is given to end by itself, and then to end on SIGTERM


class BenchmarkError(Exception):
    """A side that could not be measured: one line, and the end of what it printed."""


def mpirun(ranks: int) -> list[str]:
    """The launcher that belongs to this environment, else the one on PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise BenchmarkError("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    return [found, "-n", str(ranks), sys.executable]


def torchrun(ranks: int) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*run, f"--nproc-per-node={ranks}"]


class Group:
    """Some processes, by one launch or by several, with a line to each; `startup`: seconds to its first step's end."""

    def __init__(
        self, name: str, commands: Sequence[Sequence[str]], ranks: int, folder: Path, timeout: float
    ):
        """commands: launches whose processes have together the indices 0 .. ranks-1; "SOCKET" stands for the line."""
        self.name, self.commands, self.ranks, self.folder, self.timeout = (
            name,
            commands,
            ranks,
            folder,
            timeout,
        )
        self.launches: list[subprocess.Popen[bytes]] = []
        self.lines: dict[int, socket.socket] = {}
        self.files: dict[int, TextIO] = {}
        self.pids: list[int] = []
        self.first: list[dict[str, Any]] = []
        self.startup = 0.0

    def start(self) -> None:
        """Launch, and wait until every process has taken its first step."""
        safe = "".join(c if c.isalnum() else "-" for c in self.name)
        path, self.log = self.folder / f"{safe}.socket", self.folder / f"{safe}.log"
        path.unlink(missing_ok=True)
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, self.log.open("wb") as log:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(0.1)
            began = time.perf_counter()
            for command in self.commands:
                self.launches.append(
                    subprocess.Popen(
                        [str(path) if word == "SOCKET" else word for word in command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=ROOT,
                        env=os.environ | SETTINGS | {"PYTHONPATH": python_path},
                        start_new_session=True,
                    )
                )
            limit = began + self.timeout
            while len(self.lines) < self.ranks:
                self._accept(listener, limit)
            self.first = self._replies(limit)
            self.startup = time.perf_counter() - began

    def ask(self, **message: Any) -> list[dict[str, Any]]:
        """Send the message to every process at once; their answers, by index."""
        text = (json.dumps(message) + "\n").encode()
        for index in sorted(self.lines):
            try:
                self.lines[index].sendall(text)
            except OSError:
                raise self._failure("ended") from None
        return self._replies(time.perf_counter() + self.timeout)

    def stop(self) -> None:
        """Close the lines, at which the processes end; those that do not are ended, by their ids."""
        for end in [*self.files.values(), *self.lines.values()]:
            with suppress(OSError):
                end.close()
        if not self._ended(PATIENCE):
            for launch in self.launches:
                if launch.poll() is None:
                    launch.terminate()  # launchers pass it on
            if not self._ended(PATIENCE):
                for pid in [*self.pids, *(launch.pid for launch in self.launches if launch.poll() is None)]:
                    if pid in self._alive():
                        os.kill(pid, signal.SIGKILL)
                self._ended(PATIENCE)
        self.lines, self.files, self.launches, self.pids = {}, {}, [], []

    def cpu_seconds(self) -> float:
        """What its processes have used of cores so far."""
        ticks = 0
        for pid in self.pids:
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _accept(self, listener: socket.socket, limit: float) -> None:
        try:
            line, _ = listener.accept()
        except TimeoutError:
            if any(launch.poll() is not None for launch in self.launches):
                raise self._failure("ended before its first step") from None
            if time.perf_counter() > limit:
                raise self._failure(f"did not start within {self.timeout:g} s") from None
            return
        line.settimeout(self.timeout)
        file = line.makefile("r", encoding="utf-8")
        hello = json.loads(file.readline())
        self.lines[hello["index"]], self.files[hello["index"]] = line, file
        self.pids.append(hello["pid"])

    def _replies(self, limit: float) -> list[dict[str, Any]]:
        answers = []
        for index in sorted(self.lines):
            self.lines[index].settimeout(max(limit - time.perf_counter(), 0.1))
            try:
                text = self.files[index].readline()
            except TimeoutError:
                raise self._failure(f"gave no answer within {self.timeout:g} s") from None
            except OSError:
                text = ""
            if not text:
                self._ended(1.0)  # its last words are on their way
                raise self._failure("ended")
            answers.append(json.loads(text))
        return answers

    def _failure(self, what: str) -> BenchmarkError:
        tail = self.log.read_text(errors="replace").strip()[-2000:]
        return BenchmarkError(f"{self.name} {what}" + (f"; its last words:\n{tail}" if tail else ""))

    def _alive(self) -> list[int]:
        """Its processes that live, by id and by what they are, since ids are given anew."""
        alive = []
        for pid in {*self.pids, *(launch.pid for launch in self.launches if launch.poll() is None)}:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"benchmarks." in words:
                    alive.append(pid)
        return alive

    def _ended(self, patience: float) -> bool:
        limit = time.monotonic() + patience
        while self._alive():
            if time.monotonic() > limit:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def running(groups: Sequence[Group]) -> Iterator[None]:
    """The groups, started one after another, ended whatever happens."""
    try:
        for group in groups:
            group.start()
        yield
    finally:
        for group in groups:
            group.stop()


def others_busy(groups: Sequence[Group], seconds: float = 1.0) -> tuple[float, float]:
    """(cores taken by these groups although they wait, cores taken by anything else) over some seconds of rest."""
    ours, busy = sum(group.cpu_seconds() for group in groups), _busy_seconds()
    began = time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    ours = sum(group.cpu_seconds() for group in groups) - ours
    return ours / elapsed, max(0.0, (_busy_seconds() - busy - ours) / elapsed)


def _busy_seconds() -> float:
    """Seconds that all cores have worked: user, nice, system, interrupts, and what the hypervisor gave to others."""
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
