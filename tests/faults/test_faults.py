"""About twenty kills of the many that `make soak` does: every strategy once under each policy, every phase in turn."""

import pytest

from tests.faults.harness import OUTSIDE, SYNCS, Trial, survive, undisturbed
from tests.faults.victim import PHASES
from tests.launch import find_mpiexec

TURNS = (*PHASES, OUTSIDE)
TRIALS = [
    Trial(sync, policy, TURNS[(i + shift) % len(TURNS)])
    for policy, shift in (("restart", 0),)
    for i, sync in enumerate(SYNCS)
]
TRIALS += [Trial("allreduce", "abort", "collective"), Trial("averaging", "abort", "saving")]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_a_run_survives_a_kill(trial, tmp_path):
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    outcome = survive(trial, tmp_path, undisturbed(trial.sync, tmp_path / "undisturbed"))
    assert not outcome.problems, outcome.text
