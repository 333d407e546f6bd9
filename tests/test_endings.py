"""However one rank ends, all end, soon, and the cause is told once."""

import json
import re

import pytest

from tests.crash import failing
from tests.launch import run_alone, run_ranks
from tests.test_train import TINY_GPT, error_line, train


def crashed(statement, tmp_path):
    return run_ranks(3, ["-c", failing(statement), *map(str, TINY_GPT), "--run-dir", tmp_path / "run"])


def only_error(finished):
    """The one line of an error; the test fails where there are more, or a traceback."""
    lines = [line for line in finished.stderr.splitlines() if "mpidp: error:" in line]
    assert len(lines) == 1 and "Traceback" not in finished.stderr, str(finished)
    return lines[0]


def test_an_exception_is_shown_once(tmp_path):
    finished = crashed("raise ZeroDivisionError('a mistake of ours')", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.count("Traceback") == 1
    assert "mpidp: rank 1 of 3 failed at step 3, training:" in finished.stderr
    assert "a mistake of ours" in finished.stderr
    assert finished.seconds < 30


def test_an_exception_of_all_ranks_is_shown_once(tmp_path):
    program = failing("pass").replace("job.comm.rank == 1", "True").replace("pass", "raise ZeroDivisionError")
    finished = run_ranks(3, ["-c", program, *map(str, TINY_GPT), "--run-dir", tmp_path / "run"])
    assert finished.returncode == 1 and finished.stderr.count("Traceback") == 1
    assert "mpidp: rank 0 of 3 failed at step 3, training:" in finished.stderr


def test_an_exception_in_backward_while_messages_are_under_way(tmp_path):
    program = failing("job.model.stack[0].backward = None")  # the last of backward
    options = ["--collective", "ring", "--bucket-mib", 0.01, "--run-dir", tmp_path / "run"]
    finished = run_ranks(3, ["-c", program, *map(str, [*TINY_GPT, *options])])
    assert finished.returncode == 1 and finished.seconds < 30
    assert finished.stderr.count("Traceback") == 1
    assert (
        "mpidp: rank 1 of 3 failed at step 3, training:" in finished.stderr
        and "not callable" in finished.stderr
    )


def test_a_killed_rank(tmp_path):
    finished = crashed("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert finished.returncode != 0 and finished.seconds < 30
    assert re.search(
        r"rank 1 \(\S+, pid \d+\) was killed by signal 9 \(SIGKILL: .*\), at step 3; rank [02] was at step",
        only_error(finished),
    )


STOPS = "os.kill(os.getpid(), signal.{})"


@pytest.mark.parametrize(
    "signal, options",
    [
        ("SIGTERM", ["--collective", "ring"]),
        pytest.param("SIGINT", ["--sync", "onesided"], marks=pytest.mark.slow),
        ("SIGTERM", ["--sync", "server", "--consistency", "asynchronous"]),
    ],
)
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(signal, options, tmp_path):
    """And --resume goes on from there to the end."""
    run = [*map(str, TINY_GPT), *options, "--steps", "300", "--run-dir", str(tmp_path / "run")]
    finished = run_ranks(3, ["-c", failing(STOPS.format(signal)), *run])
    assert finished.returncode == 3 and "Traceback" not in finished.stderr
    (step,) = re.findall(
        rf"^mpidp: stopped by {signal} after step (\d+) of 300; its state is saved", finished.stderr, re.M
    )
    assert 3 < int(step) <= 300
    manifest = json.loads(
        (tmp_path / "run" / "checkpoints" / f"step-{int(step):08d}" / "manifest.json").read_text()
    )
    assert manifest["step"] == int(step)
    resumed = run_ranks(3, train("--resume", "--run-dir", tmp_path / "run")).check()
    assert f"goes on after step {step}" in resumed.stderr + resumed.stdout


def test_a_signal_stops_one_rank_alone(tmp_path):
    run = [*map(str, TINY_GPT), "--run-dir", str(tmp_path / "run")]
    finished = run_alone(["-c", failing(STOPS.format("SIGTERM"), rank=0), *run])
    assert finished.returncode == 3
    assert re.search(r"stopped by SIGTERM after step [34] of 12", finished.stderr)
    run_alone(train("--resume", "--run-dir", tmp_path / "run")).check()


def test_a_signal_in_the_last_step_saves_it(tmp_path):
    run = [*map(str, TINY_GPT), "--run-dir", str(tmp_path / "run")]
    statement = STOPS.format("SIGTERM") + "; import time; time.sleep(0.5)"  # until the ranks have agreed
    finished = run_ranks(2, ["-c", failing(statement, step=12), *run])
    assert finished.returncode == 3 and "after step 12 of 12" in finished.stderr
    run_ranks(2, train("--resume", "--run-dir", tmp_path / "run")).check()


def test_a_second_signal_ends_at_once(tmp_path):
    """Also where the first cannot be obeyed: rank 1 does not come to the step agreed on."""
    statement = "; ".join(
        [STOPS.format("SIGTERM"), "import time; time.sleep(1.5)", STOPS.format("SIGTERM"), "time.sleep(60)"]
    )
    finished = crashed(statement, tmp_path)
    assert finished.returncode == 143 and finished.seconds < 30
    assert "mpidp: error: interrupted by SIGTERM" in finished.stderr


def test_a_signal_before_the_first_step_ends_at_once(tmp_path):
    program = (
        "import os, signal, sys, time\nfrom mpidp import train, building\nload = building.load_data\n"
        "def bad(*args):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
        "building.load_data = bad\nsys.exit(train.main(sys.argv[1:]))\n"
    )
    run = [*map(str, TINY_GPT), "--run-dir", str(tmp_path / "run")]
    for finished in (run_ranks(2, ["-c", program, *run]), run_alone(["-c", program, *run])):
        assert finished.returncode == 143 and finished.seconds < 30
        assert only_error(finished).endswith("error: interrupted by SIGTERM")


def test_checked_calls_of_a_whole_run_match(tmp_path):
    options = ["--check-collectives", "--checkpoint-every", 4, "--eval-every", 5, "--collective", "ring"]
    run_ranks(3, train(*TINY_GPT, *options, "--run-dir", tmp_path / "run")).check()


def test_an_interrupted_rank(tmp_path):
    finished = crashed("raise KeyboardInterrupt", tmp_path)
    assert finished.returncode == 130 and finished.seconds < 30
    assert "mpidp: error: rank 1 was interrupted" in finished.stderr


def test_want_of_memory_is_one_line(tmp_path):
    finished = crashed("raise MemoryError('Unable to allocate 9 GiB')", tmp_path)
    assert "rank 1 is out of memory (Unable to allocate 9 GiB)" in error_line(finished)


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    finished = run_ranks(3, train("--model", "linear", "--lr", 1e6, "--run-dir", tmp_path / "run"))
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    lines = [
        line for line in finished.stderr.splitlines() if line.startswith("mpidp: error: the loss on rank")
    ]
    assert len(lines) == 1 and "lower --lr" in lines[0]
