"""However one rank ends, all end, soon, and the cause is told once."""

from tests.crash import failing
from tests.launch import run_ranks
from tests.test_train import TINY_GPT, error_line, train


def crashed(statement, tmp_path):
    return run_ranks(3, ["-c", failing(statement), *map(str, TINY_GPT), "--run-dir", tmp_path / "run"])


def test_an_exception_is_shown_once(tmp_path):
    finished = crashed("raise ZeroDivisionError('a mistake of ours')", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.count("Traceback") == 1
    assert "mpidp: rank 1 of 3 failed:" in finished.stderr and "a mistake of ours" in finished.stderr
    assert finished.seconds < 30


def test_an_exception_of_all_ranks_is_shown_once(tmp_path):
    program = failing("pass").replace("job.comm.rank == 1", "True").replace("pass", "raise ZeroDivisionError")
    finished = run_ranks(3, ["-c", program, *map(str, TINY_GPT), "--run-dir", tmp_path / "run"])
    assert finished.returncode == 1 and finished.stderr.count("Traceback") == 1
    assert "mpidp: rank 0 of 3 failed:" in finished.stderr


def test_an_exception_in_backward_while_messages_are_under_way(tmp_path):
    program = failing("job.model.stack[0].backward = None")  # the last of backward
    options = ["--collective", "ring", "--bucket-mib", 0.01, "--run-dir", tmp_path / "run"]
    finished = run_ranks(3, ["-c", program, *map(str, [*TINY_GPT, *options])])
    assert finished.returncode == 1 and finished.seconds < 30
    assert finished.stderr.count("Traceback") == 1
    assert "mpidp: rank 1 of 3 failed:" in finished.stderr and "not callable" in finished.stderr


def test_a_killed_rank(tmp_path):
    finished = crashed("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert finished.returncode != 0 and finished.seconds < 30


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
