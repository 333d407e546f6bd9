"""The supervisor: ranks that ended by a failure are started again from the last checkpoint, and no others."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from mpidp.errors import UserError
from mpidp.launch import supervisor
from mpidp.launch.__main__ import main
from mpidp.launch.launchers import Launcher, parse_hosts, place
from tests.crash import failing, once_saved
from tests.launch import MARK, find_mpiexec, launch_environment, marked_processes, run_alone
from tests.test_train import error_line, train

MODEL = ["--model", "linear", "--steps", "12", "--lr", "0.01", "--optimizer", "adamw", "--collective", "ring"]
SAVING = [*MODEL, "--checkpoint-every", "4"]
SUPERVISOR = (
    "import sys; from mpidp.launch.__main__ import main; sys.exit(main(sys.argv[2:], ['-c', sys.argv[1]]))"
)
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def once(tmp_path, statement):
    """The statement, in the first of all starts alone."""
    marker = str(tmp_path / "once")
    return f"os.path.exists({marker!r}) or (open({marker!r}, 'w').close(), {statement})"


def supervised(program, run, *ours, ranks=2, options=SAVING, timeout=60.0):
    """The end of a supervised run of a program that may fail."""
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    launch = [SUPERVISOR, program, "-n", ranks, "--backoff", 0.01, *ours]
    return run_alone(["-c", *launch, "--", *options, "--run-dir", run, "--json"], timeout)


def told(finished):
    """What the supervisor said of its restarts."""
    return [line for line in finished.stderr.splitlines() if ": restart " in line]


def digest(finished):
    return json.loads(finished.check().stdout.splitlines()[-1])["params_sha256"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return digest(supervised(failing("pass"), tmp_path_factory.mktemp("supervisor") / "run"))


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(tmp_path, undisturbed):
    run = tmp_path / "run"
    finished = supervised(failing(once_saved(run, 4, once(tmp_path, KILL)), step=6), run)
    assert digest(finished) == undisturbed
    (line,) = told(finished)
    assert "restart 1 of 5 with 2 ranks from step-00000004 in 0.01 s" in line


def test_where_nothing_was_saved_it_begins_at_the_beginning(tmp_path, undisturbed):
    finished = supervised(failing(once(tmp_path, KILL), step=3, rank=0), tmp_path / "run", options=MODEL)
    assert digest(finished) == undisturbed
    assert "without --checkpoint-every N nothing is saved" in finished.stderr
    (line,) = told(finished)
    assert "from the beginning" in line


def test_a_restart_from_the_last_checkpoint_that_is_whole(tmp_path, undisturbed):
    """--skip-damaged may be given at the first start, before there is anything to skip."""
    run = tmp_path / "run"
    file = str(run / "checkpoints" / "step-00000008" / "rank-00000.safetensors")
    damage = once(tmp_path, f"(os.truncate({file!r}, 9), {KILL})")
    program = failing(once_saved(run, 8, damage), step=10, rank=0)
    finished = supervised(program, run, options=[*SAVING, "--skip-damaged"])
    assert digest(finished) == undisturbed
    (line,) = told(finished)
    assert "from step-00000008" in line and "step-00000008 is damaged" in finished.stdout


def test_fewer_ranks_where_as_many_fail_again_and_again(tmp_path):
    program = failing(f"job.comm.size == 3 and {KILL}", step=6)
    finished = supervised(program, tmp_path / "run", ranks=3)
    assert json.loads(finished.check().stdout.splitlines()[-1])["ranks"] == 2
    first, second = told(finished)
    assert "restart 1 of 5 with 3 ranks from step-00000004" in first
    assert "restart 2 of 5 with 2 ranks from step-00000004" in second


def test_it_is_given_up_in_the_end(tmp_path):
    finished = supervised(
        failing(KILL, step=2, rank=0), tmp_path / "run", "--max-restarts", 1, "--min-ranks", 2
    )
    assert finished.returncode not in (0, 2, 3)
    assert "given up after 1 restarts without a new checkpoint" in finished.stderr


@pytest.mark.parametrize(
    ("ours", "options", "said"),
    [
        ((), ["--lr", "-1"], "--lr -1.0: must be more than 0"),
        ((), ["--run-dri", "x"], "did you mean --run-dir?"),
        (("--min-ranks", 3), MODEL, "--min-ranks 3: more than the 2 ranks"),
        (("--hosts", "A,A"), MODEL, "--hosts A,A: must be names, each once"),
        (("--launcher", "mpirunn"), MODEL, "--launcher mpirunn: there is no such program"),
        (("--max-restart", 3), MODEL, "did you mean --max-restarts?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(tmp_path, capsys, ours, options, said):
    words = ["-n", 2, *ours, "--", *options, "--run-dir", tmp_path / "run"]
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mpidp: error: ") and said in line
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_loses_a_host_and_says_that_all_is_well(tmp_path, capsys, monkeypatch):
    """As Open MPI's does: without a summary the run is not done."""
    monkeypatch.setattr(supervisor, "SEEN_LATE", 0.1)
    launcher = tmp_path / "mpirun"
    launcher.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.11'\n")
    launcher.chmod(0o755)
    words = ["-n", 2, "--hosts", "A,B", "--launcher", launcher, "--max-restarts", 0, "--", *MODEL]
    assert main([str(word) for word in [*words, "--run-dir", tmp_path / "run"]]) == 1
    assert "the ranks ended with exit code 1: given up after 0 restarts" in capsys.readouterr().err


def test_a_mistake_that_ranks_find_is_no_failure(tmp_path):
    finished = supervised(failing("pass"), tmp_path / "run", options=[*MODEL, "--data", tmp_path / "nothing"])
    assert finished.returncode == 2 and "nothing" in error_line(finished) and not told(finished)


def test_a_run_directory_with_a_run_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("steps = 3\n")
    assert main(["-n", "2", "--", *MODEL, "--run-dir", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "config.toml").read_text() == "steps = 3\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_go_on_to_the_ranks_and_nothing_is_left(tmp_path, number):
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    began = tmp_path / "began"
    program = failing(f"(open({str(began)!r}, 'w').close(), __import__('time').sleep(2))", step=3)
    mark = uuid.uuid4().hex
    launch = ["-n", "2", "--", *SAVING, "--run-dir", str(tmp_path / "run")]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, program, *launch],
            stdout=said,
            stderr=said,
            env=launch_environment() | {MARK: mark},
        )
        try:
            limit = time.monotonic() + 30
            while not began.exists():
                assert time.monotonic() < limit
                time.sleep(0.05)
            process.send_signal(number)
            process.wait(30)
            while marked_processes(mark) and time.monotonic() < limit + 20:
                time.sleep(0.05)
            assert marked_processes(mark) == []
        finally:
            for pid in marked_processes(mark):
                os.kill(pid, signal.SIGKILL)
            process.wait()
    stopped = 3  # after a step, with its state saved
    assert process.returncode == (-number if number == signal.SIGKILL else stopped)
    assert "restart" not in (tmp_path / "said").read_text()


def test_restart_needs_the_supervisor(tmp_path):
    refused = run_alone(train("--model", "linear", "--on-failure", "restart", "--run-dir", tmp_path / "run"))
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    assert "python -m mpidp.launch -n P" in error_line(refused)


def test_hosts_and_their_shares():
    assert parse_hosts("A,B", 5) == {"A": 3, "B": 2}
    assert parse_hosts("A:1,B,C", 6) == {"A": 1, "B": 3, "C": 2}
    assert parse_hosts("A:4,B:4", 5) == {"A": 4, "B": 4}
    assert place(5, {"A": 4, "B": 4}) == {"A": 4, "B": 1}
    assert place(2, {"A": 4, "B": 4}) == {"A": 2}
    for wrong in ("A:2,B:2", "A:0,B", "A,", "A:x", "A:4,B"):
        with pytest.raises(UserError, match="--hosts"):
            parse_hosts(wrong, 5 if wrong != "A:4,B" else 4)


@pytest.mark.parametrize(
    ("version", "name", "expected"),
    [
        ("HYDRA build details", "mpirun", "-x -hosts A:2,B:1 -n 3"),
        ("mpirun (Open MPI) 5.0.11", "mpirun", "-x --host A:2,B:1 -n 3"),
        ("", "srun", "-x --kill-on-bad-exit=1 --nodes=2 --nodelist=A,B --distribution=block -n 3"),
    ],
)
def test_what_each_launcher_is_told(tmp_path, monkeypatch, version, name, expected):
    for variable in ("PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    command = Launcher(str(program), ["-x"]).command(3, {"A": 2, "B": 2}, ["train"])
    assert command == [str(program), *expected.split(), "train"]
