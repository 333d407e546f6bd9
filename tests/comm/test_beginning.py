"""A rank that ends before the others know of it, under a launcher that lets the others live: a program in its place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpidp.comm.beginning import Beginning
from tests.launch import launch_environment, run_ranks

LAUNCHER = """
import os, subprocess, sys
ranks = [
    subprocess.Popen([sys.argv[1], "-c", sys.argv[2]], env=os.environ | {"OMPI_COMM_WORLD_RANK": str(rank)})
    for rank in range(3)
]
for rank in ranks:
    rank.wait()
"""
RANK = """
import os, sys, time
from mpidp.comm import beginning
beginning.PATIENCE = 0.3
if os.environ["OMPI_COMM_WORLD_RANK"] == os.environ["GOES"]:
    sys.exit()
watched, limit = beginning.Beginning.of_this_rank(), time.monotonic() + float(os.environ["SECONDS"])
while watched and time.monotonic() < limit:
    if watched.broken():
        watched.tell(int(os.environ["OMPI_COMM_WORLD_RANK"]))
        watched.end()
        break
    time.sleep(0.02)
"""


def start(folder: Path, goes: int, seconds: float, **variables: str) -> subprocess.CompletedProcess[str]:
    """Three ranks, of which one may go at once."""
    launcher = folder / "prterun"
    launcher.symlink_to(os.path.realpath(sys.executable))
    environment = launch_environment(
        {
            "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
            "PMIX_NAMESPACE": "job",
            "GOES": str(goes),
            "SECONDS": str(seconds),
        }
    )
    return subprocess.run(
        [launcher, "-S", "-c", LAUNCHER, sys.executable, RANK],
        env=environment | variables, check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize("how", ["PRTE_MCA_state_base_recoverable", "OMPI_MCA_mpi_ft_enable"])
def test_the_others_end_the_job_and_say_who_is_missing(tmp_path, how):
    ended = start(tmp_path, goes=0, seconds=20, **{how: "1"})
    assert ended.returncode == -signal.SIGTERM
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mpidp: error: of the 3 ranks on ")
    assert line.endswith(" only 1, 2 did not end before all were connected, so none can go on")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize(
    ("goes", "variables"), [(-1, {"PRTE_MCA_state_base_recoverable": "1"}), (0, {})], ids=["all", "abort"]
)
def test_nobody_ends_a_job_whose_ranks_live_or_whose_launcher_ends_it(tmp_path, goes, variables):
    ended = start(tmp_path, goes, seconds=1, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_without_such_a_launcher_nothing_is_watched():
    assert Beginning.of_this_rank() is None


EARLY = """
import os, signal, sys
from mpidp import train
from mpidp.comm import world
start = world.start
def begin(guard):
    if world.launcher_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "killed" else os._exit(7)
    return start(guard)
world.start = begin
sys.exit(train.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
@pytest.mark.parametrize("policy", ["abort", "shrink"])
def test_a_rank_that_ends_before_mpi_begins_ends_the_job(tmp_path, how, policy):
    args = ["-c", EARLY, how, "--model", "linear", "--on-failure", policy, "--run-dir", str(tmp_path / "run")]
    finished = run_ranks(3, args, env={"PRTE_MCA_state_base_recoverable": "1"} if policy == "shrink" else {})
    assert finished.returncode and finished.seconds < 30
    # Open MPI's launcher, which ends the others itself under abort, says it in its own words.
    named = ["rank 1 ("] if how == "killed" else ["only 0, 2 did not end before", "Exit code:    7"]
    assert any(words in finished.stderr + finished.stdout for words in named)
