"""`--check-collectives`: whether all ranks of a communicator make the same calls in the same order.

What all ranks of a communicator must call (algorithms, the library's collectives, barriers, exchanges of objects, the
making of communicators and of shared memory) gets a running number there and a signature: name, elements, type. A rank
tells the next one in the circle of each call, by the control plane and without waiting, and the control threads
compare: where two differ, the job ends at once with both call sites, while the main threads still wait for each other.

It is put around the verbs of the communicators at hand, so that it costs nothing where it is not asked for.
"""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator
    from mpidp.comm.control import Control

VERBS = (
    "Ibarrier", "Ifence", "Iallreduce", "Ireduce_scatter", "Iallgather", "allgather", "bcast",
    "Allocate_shared", "Free_shared", "Allocate_window",
)  # fmt: skip

FREE = {"allgather", "bcast", "Allocate_shared", "Allocate_window"}
"""Of them, those to which each rank may give something else."""

TURN = (
    0.2  # seconds for which a rank leaves the word to the one before it: several may see the same difference
)

Call = tuple[str, str]  # what was called, and where


class Orders:
    """All communicators of this rank that are watched."""

    def __init__(self, control: "Control"):
        self.control = control
        self.known: dict[str, Order] = {}
        self.early: dict[
            str, list[tuple[int, int, Call]]
        ] = {}  # of communicators that are still to be made here
        self.ended: dict[
            int, dict[str, int]
        ] = {}  # rank -> how many calls it made on each communicator before it left
        control.on("call", self.heard)
        control.on("no more calls", self.others_end)

    def watch(self, comm: "Communicator", name: str) -> None:
        """Look after the calls on `comm`, and on what is split off from it."""
        order = Order(self, comm, name)
        for verb in VERBS:
            setattr(comm, verb, order.around(verb, getattr(comm, verb)))
        split = comm.Split

        def watched_split(color: int, key: int) -> "Communicator":
            number = order.called("Split")
            part = split(color, key)
            self.watch(part, f"{name}.{number}:{color}")
            return part

        comm.Split, comm.order = watched_split, order
        self.known[name] = order
        for rank, number, call in self.early.pop(name, []):
            self.control.later(0, partial(order.heard, rank, number, call))

    def heard(self, rank: int, said: Any) -> None:
        name, number, call = said
        if name in self.known:
            self.known[name].heard(rank, number, call)
        else:
            self.early.setdefault(name, []).append((rank, number, call))

    def end(self) -> None:
        """This rank makes no more calls."""
        self.control.tell("no more calls", {name: order.count for name, order in self.known.items()})

    def others_end(self, rank: int, counts: dict[str, int]) -> None:
        self.ended[rank] = counts
        for order in list(self.known.values()):
            order.is_anybody_gone()


class Order:
    """The calls on one communicator."""

    def __init__(self, orders: Orders, comm: "Communicator", name: str):
        self.orders, self.control, self.name = orders, orders.control, name
        self.members = comm.world_ranks()
        self.next = self.members[(comm.rank + 1) % comm.size]
        self.count = 0
        self.lock = threading.Lock()
        self.ours: dict[int, Call] = {}  # number -> our call, until the rank before us has made it as well
        self.theirs: dict[int, tuple[int, Call]] = {}  # and its, until we have
        self.last: Call = ("", "")

    def around(self, verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            about = "" if verb in FREE else facts(args)
            self.called(f"{verb}{about}")
            return method(*args, **kwargs)

        return watched

    def algorithm(self, steps: Any) -> None:
        """An algorithm is started: its generator, with its arguments in it."""
        code = steps.gi_code
        self.called(
            f"{code.co_name} of {Path(code.co_filename).name}{facts(steps.gi_frame.f_locals.values())}"
        )

    def called(self, what: str) -> int:
        """This rank makes a call that all must make; its number."""
        if len(self.members) == 1:
            return 0
        self.last = call = (what, site())
        with self.lock:
            self.count = number = self.count + 1
            theirs = self.theirs.pop(number, None)
            if theirs is None:
                self.ours[number] = call
        if theirs is not None:
            self.control.later(0, partial(self.compare, number, call, *theirs))
        self.control.tell("call", [self.name, number, call], to=self.next)
        if self.orders.ended:
            self.control.later(0, self.is_anybody_gone)
        return number

    # In the control thread

    def heard(self, rank: int, number: int, call: Call) -> None:
        """That rank, the one before us, has made its call of this number."""
        with self.lock:
            ours = self.ours.pop(number, None)
            if ours is None:
                self.theirs[number] = rank, call
        if ours is not None:
            self.compare(number, ours, rank, call)

    def compare(self, number: int, ours: Call, rank: int, call: Call) -> None:
        if ours[0] != call[0]:
            self.differ(f"{self.control.name(rank)}: {call[0]}, at {call[1]}", number, ours)

    def is_anybody_gone(self) -> None:
        """Whether a rank that makes no more calls has left one out that we have made."""
        for rank, counts in self.orders.ended.items():
            if rank in self.members and counts.get(self.name, 0) < self.count:
                made = counts.get(self.name, 0)
                self.differ(f"{self.control.name(rank)}: has ended after {made} calls", self.count, self.last)

    def differ(self, theirs: str, number: int, ours: Call) -> None:
        control = self.control
        lines = [
            f"error: two ranks differ in call {number} on a communicator of {len(self.members)} ranks, which all of "
            "them must make alike:",
            f"  {theirs}",
            f"  {control.name(control.rank)}: {ours[0]}, at {ours[1]}",
        ]
        turn = min(TURN * control.alive().index(control.rank), 2.0)
        control.later(turn, partial(control.end, "\n".join(lines), 1))


def facts(values: Any) -> str:
    """Of arguments: the vector, the part of it, and what else must be the same."""
    said = []
    for argument in values:
        value = getattr(argument, "vector", argument)  # a route's wire carries one
        if isinstance(value, np.ndarray) and not any("elements" in one for one in said):
            said.append(f"{value.size} elements of {value.dtype}")
        elif isinstance(value, slice):
            said.append(f"[{value.start}:{value.stop}]")
        elif isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value):
            said.append(f"counts {list(value)}")
    return f" ({', '.join(said)})" if said else ""


def site() -> str:
    """Where the call stands, outside of this package."""
    here = os.path.dirname(__file__)
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == here:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
