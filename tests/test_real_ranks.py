"""The tests of tests/mpi, over real ranks, from plain pytest: one launch, whose ranks work in parts of every size."""

import re

import pytest

from tests.launch import ROOT, run_ranks

COMMAND = ["-m", "mpi4py", "-m", "pytest", "-x", "-q", "--with-mpi", "-p", "no:cacheprovider"]
RANKS = 7
SECONDS = 300


@pytest.mark.timeout(SECONDS + 30)
def test_suite_over_real_ranks():
    # A rank that is stuck inside C answers to no signal: the thread method ends it, and with it the job.
    result = run_ranks(
        RANKS,
        [*COMMAND, "-o", "timeout_method=thread", "-o", "timeout=60", ROOT / "tests" / "mpi"],
        timeout=SECONDS,
        env={"MPIDP_TEST_RANKS": str(RANKS)},
    ).check()
    passed = re.findall(r"(\d+) passed", result.stdout)
    assert len(passed) == RANKS and len(set(passed)) == 1, str(result)
