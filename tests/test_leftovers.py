"""What a job that fails leaves behind in /dev/shm: nothing, though its library never came to tidy up."""

import sys

import pytest

from tests.crash import failing
from tests.faults.launching import with_own_memory
from tests.launch import find_mpiexec, run_program
from tests.test_train import TINY_GPT


@pytest.mark.parametrize(
    ("statement", "route", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ring", 1),
        ("raise ZeroDivisionError", "shared", 1),
        pytest.param(
            "os.kill(os.getppid(), signal.SIGKILL)", "shared", None, marks=pytest.mark.slow
        ),  # its guard
    ],
)
def test_nothing_is_left_in_shared_memory(statement, route, code, tmp_path):
    listing = tmp_path / "listing"
    wrapper, mpiexec = with_own_memory(listing), find_mpiexec()
    if not (wrapper and mpiexec):
        pytest.skip("needs an MPI launcher, and the rights to mount a /dev/shm of its own")
    options = [*map(str, TINY_GPT), "--collective", route, "--run-dir", str(tmp_path / "run")]
    finished = run_program(
        [*wrapper, mpiexec, "-n", "3", sys.executable, "-c", failing(statement), *options], 60.0
    )
    assert finished.returncode == code or (code is None and finished.returncode), str(finished)
    assert listing.read_text().split() == []
