"""A rank that is stopped, or fails, outside of training's steps; and one that others go on without."""

import json
import re
import subprocess

import pytest

from tests.launch import run_ranks
from tests.places import LISTING
from tests.test_shrink import LETS_RANKS_END

TIMEOUT = 2
RUN = [
    "--model", "mlp", "--data", "synthetic-classes", "--samples", 200, "--features", 5, "--classes", 3, "--hidden", 16,
    "--batch-size", 24, "--steps", 8, "--sync", "averaging", "--period", 3, "--collective", "ring", "--blas", "numpy",
    "--eval-every", 4, "--checkpoint-every", 4, "--timeout", TIMEOUT,
]  # fmt: skip
FAILED = {
    "evaluation": "step 4, evaluating",
    "saving": "step 4, saving",
    "merge": "step 8, merging",
    "summary": "step 8, finishing",
}
OTHERS = FAILED | {"saving": "step 6, training"}  # who save wait for nobody; the next average is there
OFTEN = ("evaluation", "saving", "merge")
RARELY = [pytest.param("summary", marks=pytest.mark.slow)]


def run(rank, place, how, folder, *more, limit=40.0):
    program = ["-m", "tests.places", rank, place, how, *RUN, "--run-dir", folder, *more]
    return run_ranks(3, program, limit, env=LETS_RANKS_END)


@pytest.mark.parametrize("place", [*OFTEN, *RARELY])
def test_a_rank_that_fails_is_told_with_step_and_phase(place, tmp_path):
    finished = run(1, place, "fail", tmp_path / "run")
    assert finished.returncode == 1 and finished.seconds < 20
    assert f"mpidp: rank 1 of 3 failed at {FAILED[place]}:\nTraceback" in finished.stderr, str(finished)
    assert finished.stderr.count("Traceback") == 1 and "a mistake of ours" in finished.stderr


@pytest.mark.parametrize("place", [*OFTEN, *RARELY, pytest.param("writing", marks=pytest.mark.slow)])
def test_a_rank_that_is_stopped_is_told_with_where_the_others_are(place, tmp_path):
    finished = run(1, place, "stop", tmp_path / "run")
    assert finished.returncode == 1 and finished.seconds < TIMEOUT + 15, str(finished)
    (report,) = re.findall(
        r"^mpidp: error: rank [02] waited 2 s for .*: rank 1 does not answer$", finished.stderr, re.MULTILINE
    )
    assert "(--timeout sets this limit)" in report
    others = re.findall(r"^  rank [02] \(.*\): (.*), waiting for", finished.stderr, re.MULTILINE)
    assert len(others) == 2 and finished.stderr.count("train.py:") >= 2, str(finished)  # and their stacks
    if place in OTHERS:
        assert others == [OTHERS[place]] * 2, str(finished)


@pytest.mark.parametrize(
    ("rank", "place", "left"), [(0, "training", 2), pytest.param(1, "finish", 3, marks=pytest.mark.slow)]
)
def test_a_stopped_rank_is_ended_when_the_others_go_on_without_it(rank, place, left, tmp_path):
    """Though nobody ever wakes it up: it would hold the launcher, and rank 0 the run's directory."""
    options = ["--on-failure", "shrink", "--copy-every", 2, "--json"]
    finished = run(rank, place, "stop", tmp_path / "run", *options)
    facts = json.loads(finished.check().stdout.splitlines()[-1])
    assert facts["ranks"] == left
    assert f"mpidp: rank {rank} (" in finished.stderr
    assert "is stopped, and the others go on without it: it is ended" in finished.stderr


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_wakes_up_when_the_others_have_gone_on_writes_nothing(rank, tmp_path):
    """Its guard was stopped with it. While rank 0 lives it holds the run's directory, and the others cannot go on."""
    options = ["--on-failure", "shrink", "--copy-every", 2]
    folder = tmp_path / "run"
    finished = run(rank, "training", "stop both", folder, *options)
    if rank == 0:
        assert finished.returncode == 1
        assert "the others cannot go on" in finished.stderr and "another run is at work" in finished.stderr
        return
    finished.check()
    told = r"is stopped, and the others go on without it: it is ended|did not answer, and the others go on without it"
    assert re.search(
        rf"^mpidp: rank {rank} \(.*\) ({told})", finished.stderr, re.MULTILINE
    )  # guard or rank wakes first
    now = subprocess.run(
        ["sh", "-c", LISTING, "sh", folder], check=True, capture_output=True, text=True
    ).stdout
    assert "summary.json" in now and now == (tmp_path / "run.txt").read_text()
