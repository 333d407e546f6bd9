"""The control plane: who is there, who is gone, and what ranks tell each other without their main threads."""

import re

import pytest

from tests.launch import run_ranks

BEGIN = """
import os, signal, sys, threading, time
from mpidp.comm.world import guarded, look_after
def body(comm):
    control = comm.control
"""


def program(body):
    """What each rank does, as a program; `comm` and `control` are there, and `say`."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    return f"{BEGIN}{lines}    return 0\nsys.exit(guarded(body))\n"


def test_messages_go_to_one_to_several_and_to_all():
    body = """
heard = []
done = threading.Event()
def take(rank, value):
    heard.append([rank, value])
    if len(heard) == 3:
        done.set()
control.tell("note", {"of": comm.rank})
control.tell("note", "to myself", to=comm.rank)
control.on("note", take)  # what came before is handed over as well
assert done.wait(10), heard
others = [r for r in range(3) if r != comm.rank]
assert sorted(map(str, heard)) == sorted(map(str, [[comm.rank, "to myself"]] + [[r, {"of": r}] for r in others])), heard
assert control.alive() == [0, 1, 2] and control.lost == {} and control.silent() == {}
"""
    run_ranks(3, ["-c", program(body)]).check()


def test_a_large_message_arrives_whole():
    body = """
done = threading.Event()
control.on("much", lambda rank, value: done.set() if value == "x" * 9_000_000 else None)
control.tell("much", "x" * 9_000_000)
assert done.wait(20)
comm.Barrier()
"""
    run_ranks(2, ["-c", program(body)]).check()


def test_a_killed_rank_is_seen_by_who_waits_for_it():
    body = """
control.at(step=7, phase="training")
if comm.rank == 1:
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
comm.Barrier()
"""
    finished = run_ranks(3, ["-c", program(body)])
    assert finished.returncode != 0 and finished.seconds < 20
    assert re.search(
        r"mpidp: error: rank 1 \(\S+, pid \d+\) .*; rank \d was at step 7, training, waiting for",
        finished.stderr,
    )


def test_a_rank_that_ends_early_is_told_with_its_exit_code():
    body = """
if comm.rank == 1:
    os._exit(5)
comm.Barrier()
"""
    finished = run_ranks(2, ["-c", program(body)])
    assert finished.returncode != 0 and finished.seconds < 20
    assert re.search(r"error: rank 1 \(\S+, pid \d+\) ended with exit code 5; rank 0 was at", finished.stderr)


STOPPED_AT_THE_START = """
import os, signal, sys
from mpidp.comm import guard, world
guard.START = 2.0
start = world.start
def stops(ours):
    if world.launcher_rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return start(ours)
world.start = stops
sys.exit(world.guarded(lambda comm: 0))
"""


def test_a_rank_that_is_stopped_before_the_ranks_know_each_other():
    finished = run_ranks(2, ["-c", STOPPED_AT_THE_START], timeout=40)
    assert finished.returncode == 1 and finished.seconds < 20
    assert re.search(
        r"error: rank \d \(.*\) has waited 2 s for all ranks to start: one is lost, stopped", finished.stderr
    )


def test_ranks_that_end_the_job_at_once_in_two_ways_agree_on_one_code():
    """MPICH's mpirun makes 3 of 1 and 2, by a bitwise or: that would say that the run was stopped by a signal."""
    body = """
control.end_with(comm.rank + 1)
limit = time.monotonic() + 10
while len(control.codes) < 2 and time.monotonic() < limit:
    time.sleep(0.01)
time.sleep(0.2)
os._exit(control.code)
"""
    finished = run_ranks(2, ["-c", program(body)])
    assert finished.returncode == 1 and finished.seconds < 20


STOPPED = """
look_after(comm, 2.0, False)
control.at(step=7, phase="training")
if comm.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
{wait}
"""


@pytest.mark.parametrize(
    "wait, what", [("comm.Barrier()", "all ranks at a barrier"), ("comm.Dup()", "MPI_Comm_split")]
)
def test_a_stopped_rank_is_named_and_ended_with_all_others(wait, what):
    """Whether the others poll, or are inside a call of MPI that cannot be polled."""
    finished = run_ranks(3, ["-c", program(STOPPED.format(wait=wait))], timeout=40)
    assert finished.returncode == 1 and finished.seconds < 20
    (report,) = re.findall(r"^mpidp: error: rank \d waited 2 s for .*", finished.stderr, re.MULTILINE)
    assert what in report and report.endswith("rank 1 does not answer")
    assert (
        len(re.findall(r"^  rank \d \(.*step 7, training, waiting for", finished.stderr, re.MULTILINE)) == 2
    )
    assert len(re.findall(r"<string>:\d+ body", finished.stderr)) == 2  # their stacks


def test_a_rank_that_computes_for_too_long_is_named():
    body = """
look_after(comm, 1.0, False)
if comm.rank == 2:
    time.sleep(100)
comm.Barrier()
"""
    finished = run_ranks(3, ["-c", program(body)], timeout=40)
    assert finished.returncode == 1 and finished.stderr.count("mpidp: error:") == 1
    assert "late is rank 2, still computing" in finished.stderr and "<string>" in finished.stderr


MISMATCH = """
import numpy as np
from mpidp.collectives import ring
look_after(comm, 60.0, True)
part = comm.Dup()
x, scratch = np.ones(12), np.ones(12)
for _ in range(3):
    ring.allreduce(part, x, scratch)
    assert part.allgather(comm.rank) == [0, 1, 2]
if comm.rank == 1:
    {differently}
ring.allreduce(part, x, scratch)  # here
"""


@pytest.mark.parametrize(
    "differently, told",
    [
        ("pass", None),
        ("part.Barrier()", "Ibarrier, at <string>"),
        ("ring.allreduce(part, x[:6], scratch)", "(6 elements of float64), at <string>"),
        (
            "ring.allreduce(part, x.astype('f4'), scratch.astype('f4'))",
            "(12 elements of float32), at <string>",
        ),
        ("return 0", "has ended after 6 calls"),
    ],
)
def test_calls_that_do_not_match(differently, told):
    finished = run_ranks(3, ["-c", program(MISMATCH.format(differently=differently))], timeout=30)
    if told is None:
        assert finished.returncode == 0 and finished.stderr == ""
        return
    assert finished.returncode == 1 and finished.seconds < 20
    assert finished.stderr.count("two ranks differ in call 7 on a communicator of 3 ranks") == 1
    assert re.search(r"^  rank 1 \(.*" + re.escape(told), finished.stderr, re.MULTILINE)
    assert re.search(
        r"^  rank [02] \(.*: \w+ of wire.py \(12 elements of float64\), at <string>",
        finished.stderr,
        re.MULTILINE,
    )
