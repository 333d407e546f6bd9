"""The control plane: who is there, who is gone, and what ranks tell each other without their main threads."""

import re

from tests.launch import run_ranks

BEGIN = """
import os, signal, sys, threading, time
from mpidp.comm.world import guarded
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
