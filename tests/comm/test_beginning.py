"""A rank that ends before the others know of it, under a launcher that lets the others live: a program in its place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpidp.comm.beginning import Beginning
from tests.launch import launch_environment

LAUNCHER = """
import os, subprocess, sys
ranks = [
    subprocess.Popen([sys.argv[1], "-c", sys.argv[2]], env=os.environ | {"OMPI_COMM_WORLD_LOCAL_RANK": str(rank)})
    for rank in range(3)
]
for rank in ranks:
    rank.wait()
"""
RANK = """
import os, sys, time
from mpidp.comm import beginning
beginning.PATIENCE = 0.3
if os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == os.environ["GOES"]:
    sys.exit()
watched, limit = beginning.Beginning.of_this_rank(), time.monotonic() + float(os.environ["SECONDS"])
while watched and time.monotonic() < limit:
    if missing := watched.missing():
        watched.end(missing)
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
    assert line.startswith("mpidp: error: number 0 of the 3 ranks on this host (")
    assert line.endswith(") has ended before the ranks were connected: none can go on")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize(
    ("goes", "variables"), [(-1, {"PRTE_MCA_state_base_recoverable": "1"}), (0, {})], ids=["all", "abort"]
)
def test_nobody_ends_a_job_whose_ranks_live_or_whose_launcher_ends_it(tmp_path, goes, variables):
    ended = start(tmp_path, goes, seconds=1, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_without_such_a_launcher_nothing_is_watched():
    assert Beginning.of_this_rank() is None
