"""Ranks on two hosts (network namespaces): one host, or the link between them, is lost; see `python -m tests.hosts`."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.hosts import ADDRESSES, two_hosts
from mpidp.comm.probe import library
from mpidp.errors import UserError
from tests.faults.harness import MODEL
from tests.faults.victim import Fault
from tests.launch import find_mpiexec, run_alone

STEPS = 24
TIMEOUT = 4  # seconds: --timeout
TRAIN = [*MODEL, "--collective", "ring", "--timeout", str(TIMEOUT), "--steps", str(STEPS)]
SUPERVISOR = """
import sys
from mpidp.launch.__main__ import main
sys.exit(main(sys.argv[1:], ["-m", "tests.faults.victim"]))
"""


class Running:
    """A program on the first host, with two ranks on each."""

    def __init__(self, hosts, folder, output):
        self.hosts, self.folder, self.output = hosts, folder, output
        self.process: subprocess.Popen | None = None

    def start(self, *options, supervised):
        ours, program = (
            self.hosts.launcher_options(),
            [*TRAIN, *options, "--run-dir", str(self.folder / "run")],
        )
        if supervised:
            launch = ["-n", "4", "--hosts", ",".join(ADDRESSES), "--host-timeout", "3", "--backoff", "0.1"]
            command = [
                sys.executable,
                "-c",
                SUPERVISOR,
                *launch,
                "--launcher-args",
                shlex.join(ours),
                "--",
                *program,
            ]
        else:
            where = ["-hosts", ",".join(f"{address}:2" for address in ADDRESSES), "-n", "4"]
            command = [find_mpiexec(), *ours, *where, sys.executable, "-m", "tests.faults.victim", *program]
        self.process = self.hosts.start(command, self.output)

    def until_saved(self):
        """Return when there is a checkpoint to go on from; some steps are to come still."""
        limit = time.monotonic() + 30
        while not list((self.folder / "run" / "checkpoints").glob("step-*")):
            assert time.monotonic() < limit and self.process.poll() is None, self.said()
            time.sleep(0.05)

    def end(self):
        """(exit code, seconds until then, what was said)."""
        began = time.monotonic()
        self.process.wait(60)
        return self.process.returncode, time.monotonic() - began, self.said()

    def said(self):
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def summary(self):
        facts = json.loads((self.folder / "run" / "summary.json").read_text())
        assert facts["validation_loss"] < facts["validation_loss_before"] and facts["steps"] == STEPS
        return facts


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Skips the test, with the reason, where this machine does not allow two hosts."""
    if "MPICH" not in library().vendor:
        pytest.skip("needs MPICH's mpirun")
    slowly = Fault(rank=-1, phase="none", step=0, once="", pace=0.1)
    for name, value in slowly.to_env().items():
        monkeypatch.setenv(name, value)
    up = False
    try:
        with two_hosts("1gbit") as hosts, tempfile.TemporaryFile() as output:
            up, one = True, Running(hosts, tmp_path, output)
            try:
                yield one
            finally:
                if one.process is not None and one.process.poll() is None:
                    one.process.kill()  # all of both hosts' processes end with it
                    one.process.wait()
    except UserError as error:
        if up:
            raise
        pytest.skip(str(error))


def test_a_command_of_ones_own_finds_both_hosts_and_leaves_none():
    if "MPICH" not in library().vendor:
        pytest.skip("needs MPICH's mpirun")
    script = f"{find_mpiexec()} $LAUNCHER_ARGS -hosts $HOSTS -n 2 hostname; exit 7"
    finished = run_alone(["-m", "tests.hosts", "--rate", "100mbit", "--", "sh", "-c", script])
    if finished.returncode == 2:
        pytest.skip(finished.stderr.strip())
    assert finished.returncode == 7 and sorted(finished.stdout.split()) == ["host1", "host2"], str(finished)
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    left = [line for line in names.splitlines() if line.startswith("mpidp-")]
    assert all(Path(f"/proc/{line.split('-')[1]}").exists() for line in left), names  # those of another run


def test_a_host_is_lost_and_the_other_starts_again(running):
    running.start(supervised=True)
    running.until_saved()
    running.hosts.link("down")  # first: where the power fails, nobody says goodbye
    running.hosts.kill(ADDRESSES[1])
    code, _, said = running.end()
    assert code == 0, said
    assert f"no answer from {ADDRESSES[1]}: 2 ranks on {ADDRESSES[0]}" in said
    facts = running.summary()
    assert (facts["ranks"], facts["ranks_before"]) == (2, 4)


def test_a_host_is_cut_off_and_the_other_goes_on(running):
    """The ranks there live on, and it is the others that they see cut off: they end, for the job is where rank 0 is."""
    running.start("--on-failure", "shrink", "--copy-every", "3", supervised=True)
    running.until_saved()
    running.hosts.link("down")
    code, _, said = running.end()
    assert code == 0, said
    assert "the other 2 ranks go on after step" in said and ": restart " not in said
    facts = running.summary()
    assert facts["ranks"] == 2 and facts["losses"][0]["ranks"] == [2, 3]


def test_killed_ranks_of_another_host_are_done_without(running):
    running.start("--on-failure", "shrink", "--copy-every", "3", supervised=False)
    running.until_saved()
    running.hosts.kill_ranks(ADDRESSES[1])
    code, _, said = running.end()
    assert code == 0, said
    assert sorted(rank for loss in running.summary()["losses"] for rank in loss["ranks"]) == [2, 3], said


@pytest.mark.parametrize("how", ["cut", "slow"])
def test_a_link_that_is_cut_or_far_too_slow_is_told(running, how):
    running.start("--hidden", "256,256", supervised=False)
    running.until_saved()
    if how == "slow":
        running.hosts.shape("20kbit")
    else:
        running.hosts.link("down")
    code, seconds, said = running.end()
    assert code == 1, said
    assert seconds < TIMEOUT + 15
    assert f"waited {TIMEOUT} s for" in said and "--timeout sets this limit" in said
