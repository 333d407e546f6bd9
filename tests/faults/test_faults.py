"""More than twenty kills of the many that `make soak` does: every strategy under both policies, every phase in turn."""

import pytest

from tests.faults.harness import EARLY, OUTSIDE, SYNCS, References, Trial, survive
from tests.faults.victim import PHASES
from tests.launch import find_mpiexec

TURNS = (*PHASES, OUTSIDE)
TRIALS = [
    Trial(sync, policy, TURNS[(i + shift) % len(TURNS)])
    for policy, shift in (("restart", 0), ("shrink", 3))
    for i, sync in enumerate(SYNCS)
]
TRIALS += [
    Trial("sharded", "supervised", OUTSIDE),
    Trial("averaging", "shrink", EARLY),
    Trial("allreduce", "abort", "collective"),
    Trial("averaging", "abort", "saving"),
]


@pytest.fixture(scope="module")
def references():
    return References()


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_a_run_survives_a_kill(trial, tmp_path, references):
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    outcome = survive(trial, tmp_path, references)
    assert not outcome.problems, outcome.text
