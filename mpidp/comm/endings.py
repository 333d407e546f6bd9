"""The end of a job: the last words, said once, and then all ranks."""

import sys
import time
from typing import TYPE_CHECKING

from mpidp.errors import RunError

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator

DRAIN = 0.3
"""Seconds between an error's last words and the end of the job: a launcher that is told to end it at once can drop
what a rank has just written (MPICH's did, in 16 of 201 crashes)."""

TURN = 0.5  # seconds for which a rank leaves the word to the one before it


def end(comm: "Communicator", text: str, code: int) -> int:
    """Say why, and end all ranks with this exit code; or with the one with which another rank has ended the job."""
    # Ranks often fail together: each waits its turn, and the first to speak ends the others.
    control = comm.control
    turn = control.alive().index(control.rank) if control else comm.rank
    time.sleep(min(TURN * turn, 3.0))
    if control is None or not control.ending:
        if control:
            control.end_with(code)
        say(text)
    time.sleep(DRAIN)
    code = control.code if control else code
    if comm.size > 1 or control:
        comm.Abort(code)
    return code


def finalise(comm: "Communicator") -> None:
    """End MPI while the loss of a rank is still seen, and then the control plane."""
    from mpi4py import MPI

    control = comm.control
    if control.orders is not None:
        control.orders.end()
    try:
        with control.blocked("all ranks to end MPI (MPI_Finalize)"):
            MPI.Finalize()
    except RunError as error:
        end(comm, f"error: {one_line(error)}", 1)
    control.close()


LONGEST = 4000
"""Characters of an error that are shown: a value of a million digits, quoted in it, must not flood a terminal."""


def one_line(error: Exception) -> str:
    """Its text, and its notes, with line breaks and the like (from a file's name, say) made visible."""
    text = str(error) if len(str(error)) <= LONGEST else f"{str(error)[:LONGEST]}…"
    text += "".join(getattr(error, "__notes__", []))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say(text: str) -> None:
    print(f"mpidp: {text}", file=sys.stderr, flush=True)
