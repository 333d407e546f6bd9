"""Checkpoints of MPI ranks, whose threads tell rank 0's by the control plane."""

from tests.checkpoint.saving import names
from tests.crash import failing
from tests.launch import run_ranks
from tests.test_train import summary

LINEAR = [
    "--model", "linear", "--samples", 60, "--batch-size", 20, "--steps", 8, "--sync", "sharded", "--collective", "ring",
    "--checkpoint-every", 2, "--keep-checkpoints", 9, "--json",
]  # fmt: skip
SLOW = (
    "import time; from mpidp.checkpoint import tensors; write = tensors.write; "
    "tensors.write = lambda *args: (time.sleep({}), write(*args))[1]"
)
"""From now on a file takes so many seconds longer."""


def test_what_is_being_written_is_complete_before_a_rank_that_fails_ends_the_others(tmp_path):
    """Its main thread is in an exception, the others' wait for it: the threads that write need none of them."""
    slow = failing(SLOW.format(1), step=3).replace("and job.comm.rank == 1", "")
    program = slow.replace("sys.exit(", raising(5) + "sys.exit(")
    finished = run_ranks(3, ["-c", program, *map(str, LINEAR), "--run-dir", tmp_path / "run"])
    assert finished.returncode == 1 and "ZeroDivisionError" in finished.stderr
    assert names(tmp_path / "run" / "checkpoints") == ["step-00000002", "step-00000004"]


def raising(step):
    """The lines of a program in which rank 1 fails at that step."""
    return (
        "slow = Job.batch\n"
        "def worse(job, t):\n"
        f"    if t == {step} and job.comm.rank == 1:\n"
        "        raise ZeroDivisionError\n"
        "    return slow(job, t)\n"
        "Job.batch = worse\n"
    )


def test_a_checkpoint_that_is_due_while_one_is_written_waits(tmp_path):
    program = failing(SLOW.format(1.5), step=1, rank=1)
    finished = run_ranks(3, ["-c", program, *map(str, LINEAR), "--steps", "4", "--run-dir", tmp_path / "run"])
    assert summary(finished)["checkpoints_written"] == 2
    warnings = [line for line in finished.stdout.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "at step 4 training waited 1." in warnings[0]
