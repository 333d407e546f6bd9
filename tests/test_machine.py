"""What the system says about this machine."""

import fcntl
import mmap
import os
import struct
import subprocess
import sys
import termios
import uuid
from pathlib import Path

import pytest

from mpidp import machine
from tests.launch import launch_environment, run_alone, run_ranks

COLUMNS = (
    "import sys; from mpidp import machine; print(machine.terminal_columns(), file=sys.stderr, flush=True)"
)


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), (None, None)])
def test_core_quota(monkeypatch, tmp_path, text, cores):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.core_quota() == cores


def test_memory_is_what_the_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.memory_available() > 0
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert machine.memory_available() == 3_000_000


def test_leftovers_are_segments_that_nobody_has_mapped():
    path = machine.SHARED_MEMORY / f"mpich_shm_{uuid.uuid4().hex}"
    path.write_bytes(bytes(4096))
    try:
        assert path in machine.shared_memory_leftovers()
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert path not in machine.shared_memory_leftovers()
    finally:
        path.unlink()


def test_blas_threads_follow_the_environment():
    code = "from mpidp import machine; print(machine.blas().threads)"
    assert run_alone(["-c", code], env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}).stdout == "1\n"


def test_no_terminal():
    assert run_alone(["-c", COLUMNS]).check().stderr == "None\n"
    both = run_ranks(2, ["-c", COLUMNS]).check().stderr
    # One rank's words may come between the other's and its end of line.
    assert "".join(both.split()) == "NoneNone"


def test_width_of_the_terminal():
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 93, 0, 0))
        process = subprocess.run(
            [sys.executable, "-c", COLUMNS],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=launch_environment(),
            cwd=Path(__file__).parents[1],
            timeout=30,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.stderr == b"93\n"
