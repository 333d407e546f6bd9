"""Calls of MPI that do not come back without all ranks, and cannot be polled: to make communicators and windows."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mpidp.comm.pending import Pending

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator

T = TypeVar("T")


def blocking(comm: "Communicator", what: str, call: Callable[[], T]) -> T:
    """What `call()` gives. Raises RankLost where a rank is lost meanwhile.

    Where the job goes on without lost ranks, a thread makes the call, and is left behind in it if one is lost: it goes
    round in it until the job ends, and takes what the cores have to spare. Otherwise the job has come to its end then.
    """
    control = comm.control
    if control is None:
        return call()
    if control.policy != "shrink":
        with control.blocked(what):
            return call()
    result: list[Any] = []
    thread = threading.Thread(target=attempt, args=(call, result), name="blocking", daemon=True)
    thread.start()
    comm.Wait(Pending([lambda: not thread.is_alive()], what))
    value, error = result
    if error is not None:
        raise error
    return value


def attempt(call: Callable[[], Any], result: list[Any]) -> None:
    """result ← what the call gives, and what it raises."""
    try:
        result += [call(), None]
    except BaseException as error:
        result += [None, error]
