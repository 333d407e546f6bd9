"""--on-failure shrink: when ranks are killed the others go on in the same job, under a plain mpirun, and end with 0."""

import json

import numpy as np
import pytest

from mpidp.recovery.copies import Packed, neighbour, packed
from tests.launch import run_alone, run_ranks
from tests.test_train import error_line, summary, train

STEPS = 40
RUN = [
    "--model", "mlp", "--data", "synthetic-classes", "--samples", 300, "--features", 5, "--classes", 3, "--hidden", 16,
    "--batch-size", 24, "--lr", "0.01", "--steps", STEPS, "--dtype", "float64", "--blas", "numpy", "--timeout", 40,
]  # fmt: skip
LETS_RANKS_END = {"PRTE_MCA_state_base_recoverable": "1"}  # Open MPI's mpirun; MPICH's needs nothing
SHRINK = ["--on-failure", "shrink", "--copy-every", 6]
EXACT = 1e-9  # relative, in float64: what another order of adding up does in 40 steps
SYNCS = {
    "ring": (["--collective", "ring"], 2, EXACT),
    "shared": (["--collective", "shared"], 0, EXACT),
    "sharded": (["--sync", "sharded", "--collective", "shared"], 1, EXACT),
    "zero 2": (["--sync", "sharded", "--stage", 2], 0, EXACT),
    "a server": (["--sync", "server", "--servers", 2], 3, EXACT),
    "averaging": (["--sync", "averaging", "--collective", "ring", "--period", 5, "--outer", "sgd"], 0, 0.3),
    "gossip": (["--sync", "gossip", "--collective", "ring"], 3, 0.3),
}


def killed(*ranks_and_steps):
    """The train program, for `python -c`, in which these ranks of the job are killed at these steps."""
    return (
        "import os, signal, sys\n"
        "from mpidp import train\n"
        "from mpidp.building import Job\n"
        "batch = Job.batch\n"
        "def fatal(job, t):\n"
        f"    if (job.comm.control.rank, t) in {ranks_and_steps!r}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return batch(job, t)\n"
        "Job.batch = fatal\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )


def launch(ranks, deaths, *args):
    return run_ranks(ranks, ["-c", killed(*deaths), *map(str, (*RUN, *args, "--json"))], env=LETS_RANKS_END)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process comes to, whom nothing happens to."""
    return summary(run_alone(train(*RUN, "--run-dir", tmp_path_factory.mktemp("alone") / "run", "--json")))


@pytest.mark.parametrize("sync", SYNCS)
def test_three_of_four_ranks_go_on(tmp_path, sync, alone):
    options, rank, bound = SYNCS[sync]
    finished = launch(4, [(rank, 21)], *options, *SHRINK, "--run-dir", tmp_path / "run")
    facts = summary(finished)
    assert facts["ranks"] == 3 and len(facts["losses"]) == 1
    (loss,) = facts["losses"]
    assert loss["ranks"] == [rank] and 6 <= loss["goes_on_after"] <= 24 and "SIGKILL" in loss["how"]
    assert f"the other 3 ranks go on after step {loss['goes_on_after']}" in finished.stdout
    assert "Traceback" not in finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]  # each logged once
    gained = alone["validation_loss_before"] - alone["validation_loss"]
    assert abs(facts["validation_loss"] - alone["validation_loss"]) <= bound * gained


def test_one_loss_after_another_down_to_one_rank(tmp_path, alone):
    options = ["--sync", "sharded", "--collective", "ring", "--run-dir", tmp_path / "run"]
    facts = summary(launch(3, [(0, 9), (2, 25)], *options, *SHRINK))
    assert facts["ranks"] == 1 and [loss["ranks"] for loss in facts["losses"]] == [[0], [2]]
    assert facts["validation_loss"] == pytest.approx(alone["validation_loss"], rel=EXACT)


def test_a_part_lost_with_its_copy_comes_from_the_last_checkpoint(tmp_path, alone):
    both = [(1, 21), (2, 21)]
    options = ["--sync", "sharded", "--collective", "ring", *SHRINK]
    facts = summary(launch(4, both, *options, "--checkpoint-every", 10, "--run-dir", tmp_path / "run"))
    assert facts["ranks"] == 2 and {loss["goes_on_after"] for loss in facts["losses"]} <= {10, 18, 20}
    assert facts["validation_loss"] == pytest.approx(alone["validation_loss"], rel=EXACT)


def test_without_a_checkpoint_the_job_ends_with_the_reason(tmp_path):
    options = ["--sync", "sharded", "--collective", "ring", *SHRINK, "--run-dir", tmp_path / "run"]
    finished = launch(4, [(1, 21), (2, 21)], *options)
    if (
        finished.returncode
    ):  # they are lost one after the other where the first is missed before the second ends
        assert finished.returncode == 1 and "there is no checkpoint" in finished.stderr, str(finished)
        assert "Traceback" not in finished.stderr


REFUSED = {
    "alone": (1, [], "of 1 rank none is left"),
    "reproducible": (4, ["--reproducible", 8], "3 ranks could not share"),
    "server": (2, ["--sync", "server"], "with one rank fewer than these 2: --sync server needs a worker"),
    "abort": (
        1,
        ["--on-failure", "abort", "--copy-every", 3],
        "--copy-every 3 is used by --on-failure shrink",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_where_it_cannot_work(tmp_path, case):
    ranks, options, text = REFUSED[case]
    args = train(*RUN, "--on-failure", "shrink", *options, "--run-dir", tmp_path / "run")
    assert text in error_line(run_alone(args) if ranks == 1 else run_ranks(ranks, args, env=LETS_RANKS_END))


def test_a_copy_goes_to_another_host_where_there_is_one():
    assert neighbour((0, 0, 0)) == 1
    assert neighbour((0, 0, 1, 1)) == 2
    assert neighbour((0, 1, 0, 1)) == 1
    assert neighbour((0, 0, 1)) in (1, 2)


def test_packed_arrays_are_copies_in_one_piece():
    arrays = {"a": np.arange(5.0), "b": np.array([[1, 2]], np.int64), "empty": np.empty((0, 2))}
    first = packed(arrays, None)
    arrays["a"][0] = 9
    assert first.views["a"][0] == 0 and first.views["empty"].shape == (0, 2)
    again = packed(arrays, first)
    assert again is first and again.views["a"][0] == 9
    other = Packed(first.layout)
    other.memory[...] = first.memory
    assert all((other.views[name] == array).all() for name, array in arrays.items())
