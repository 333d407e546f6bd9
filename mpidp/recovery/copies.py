"""Copies of the ranks' state in memory, from which those that are left go on when a rank is lost.

Every `--copy-every` steps a rank copies what `Strategy.saved(whole=True)` gives. What it alone has (its part of the
optimizer's state, its residual) goes to a neighbour as well, on another host where there is one: so it is there until
both are lost. Strategies whose ranks have nothing that the others need, but their own local steps, send nothing.
After Wang et al. 2023, "Gemini: Fast Failure Recovery in Distributed Training with In-Memory Checkpoints", SOSP,
doi 10.1145/3600006.3613145.

Two copies are kept, and the older is written over when the newer is complete on all ranks: whenever a rank dies, there
is one that all of the others have. The messages travel, and the ranks meet, while training goes on.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpidp.arrays import Array, to_host
from mpidp.building import Job
from mpidp.collectives import broadcast
from mpidp.comm import Communicator
from mpidp.comm.pending import Pending
from mpidp.progress import Progress

ALIGNMENT = 64  # bytes
Layout = list[tuple[str, str, list[int]]]
"""Name, type and shape of each array."""

WRITTEN = 1  # message tag

TRIES = 100
"""How often an MPI library is asked for a message that may have come."""

Key = tuple[int, int, int]
"""Which copy: how many ranks had been lost when it was made, which it was since, and after which step.

Later ones are greater; their steps need not be, in a run that goes back.
"""


class Packed:
    """Arrays one behind the other in one piece of memory, which travels as one message."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.views: dict[str, np.ndarray] = {}
        places, end = [], 0
        for _, dtype, shape in layout:
            places.append(end)
            end += -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        self.memory = np.empty(end, np.uint8)
        for (name, dtype, shape), place in zip(layout, places, strict=True):
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            self.views[name] = self.memory[place : place + nbytes].view(dtype).reshape(shape)

    def fill(self, arrays: Mapping[str, Array]) -> None:
        for name, view in self.views.items():
            np.copyto(view, to_host(arrays[name]))


def packed(arrays: Mapping[str, Array], old: Packed | None) -> Packed:
    """A copy of the arrays, in the memory of `old` where that has the same layout."""
    layout = [(name, array.dtype.str, list(array.shape)) for name, array in arrays.items()]
    copy = old if old and old.layout == layout else Packed(layout)
    copy.fill(arrays)
    return copy


@dataclass
class Copy:
    """What this rank keeps of one step."""

    ranks: list[int]  # in the job, of those who were there, in the order of the strategy's ranks
    key: Key
    facts: dict[str, Any]
    own: Packed  # that no other rank has
    rest: Packed  # that is the same on all ranks
    shared: set[str]  # names of what is
    source: int | None = None  # the rank (of `ranks`, by its place) whose own is kept here, too
    theirs: Packed | None = None
    arrival: list[Pending] = field(default_factory=list)  # of theirs, and of rank 0's word
    others: list[Pending] = field(default_factory=list)  # to be waited for before the memory is used again

    @property
    def step(self) -> int:
        return self.key[2]


class Copies:
    """The copies that this rank keeps: at most two, the older first."""

    def __init__(self, every: int):
        self.every = every
        self.kept: list[Copy] = []
        self.comm: Communicator | None = None  # of the copies' messages, since the last loss
        self.members: list[int] = []
        self.shared: set[str] = set()
        self.losses, self.taken = 0, 0
        self.shift: int | None = None  # to the neighbour; None: nothing is sent
        self.left_behind: list[Copy] = []  # whose memory MPI may still write into

    def take(self, t: int, job: Job, progress: Progress) -> None:
        """Copy the state after step t; all ranks together. One rank alone has nobody who could go on from it."""
        if job.comm.size == 1:
            return
        job.comm.at(phase="copying")
        if self.comm is None:
            self.meet(job)
        comm = self.comm
        if self.kept and self.kept[-1].key[0] == self.losses:
            comm.Wait(*self.kept[-1].arrival, *self.kept[-1].others)
        spare = self.kept.pop(0) if len(self.kept) > 1 else None
        if spare and spare.key[0] != self.losses:
            self.left_behind.append(spare)
            spare = None
        arrays = job.strategy.saved(whole=True)
        own = packed({k: v for k, v in arrays.items() if k not in self.shared}, spare and spare.own)
        rest = packed({k: v for k, v in arrays.items() if k in self.shared}, spare and spare.rest)
        progress.tell(wait=True)
        facts = job.facts() | {"validation_loss_before": progress.before}
        copy = Copy(self.members, (self.losses, self.taken, t), facts, own, rest, self.shared)
        self.taken += 1
        if self.shift is not None:
            self.exchange(copy, spare and spare.theirs)
        # Once it counts, rank 0 has written the lines of metrics.jsonl up to here.
        written = np.empty(1, np.uint8)
        if comm.rank > 0:
            copy.arrival.append(comm.Irecv(written, 0, WRITTEN))
        else:
            copy.others += [comm.Isend(written, rank, WRITTEN) for rank in range(1, comm.size)]
        copy.others.append(comm.Ibarrier())
        self.kept.append(copy)

    def meet(self, job: Job) -> None:
        """The first copy of a job, or of the rest of one."""
        strategy, control = job.strategy, job.comm.control
        self.comm = comm = job.comm.Dup()
        self.members = comm.allgather(control.rank)
        self.losses, self.taken = control.size - comm.size, 0
        whole, own = strategy.saved(whole=True), strategy.saved()
        self.shared = set().union(*comm.allgather(sorted(whole.keys() - own.keys())))
        needed = strategy.replicated or len(strategy.owners(comm.size, strategy.options)) > 0
        self.shift = neighbour(comm.hosts()) if needed else None

    def exchange(self, copy: Copy, old: Packed | None) -> None:
        """Start to send what this rank alone has to its neighbour, and to receive the same from the other one."""
        comm = self.comm
        target, source = (comm.rank + self.shift) % comm.size, (comm.rank - self.shift) % comm.size
        text, length = np.frombuffer(json.dumps(copy.own.layout).encode(), np.uint8), np.empty(1, np.int64)
        comm.Wait(comm.Irecv(length, source), comm.Isend(np.array([text.size], np.int64), target))
        theirs = np.empty(int(length[0]), np.uint8)
        comm.Wait(comm.Irecv(theirs, source), comm.Isend(text, target))
        layout: Layout = [(name, dtype, shape) for name, dtype, shape in json.loads(theirs.tobytes())]
        copy.theirs = old if old and old.layout == layout else Packed(layout)
        copy.source = source
        copy.arrival.append(comm.Irecv(copy.theirs.memory, source))
        copy.others.append(comm.Isend(copy.own.memory, target))

    # After a loss

    def newest(self) -> Key | None:
        """Which of them is the newest that is complete here."""
        if self.comm is not None:  # else none has been made since the last loss
            while self.kept and not self.arrived(self.kept[-1]):
                self.left_behind.append(self.kept.pop())
        return self.kept[-1].key if self.kept else None

    def arrived(self, copy: Copy) -> bool:
        """Whether the neighbour's part of it is here: without a wait, since its sender may be the one who is lost."""
        for _ in range(TRIES):
            with contextlib.suppress(
                Exception
            ):  # an MPI library says so of any message that a lost rank has begun
                if self.comm.Test(*copy.arrival):
                    return True
        return False

    def choose(self, key: Key | None) -> Copy | None:
        """Keep that one alone, which all ranks have, for those who go on; it."""
        self.left_behind += [copy for copy in self.kept if copy.key != key]
        self.kept = [copy for copy in self.kept if copy.key == key]
        self.comm = None
        return self.kept[0] if self.kept else None


def neighbour(hosts: tuple[int, ...]) -> int:
    """How far it is to the rank that keeps a copy: the least distance of those that lead to another host most often."""
    size = len(hosts)
    return max(range(1, size), key=lambda s: (sum(hosts[r] != hosts[r - s] for r in range(size)), -s))


class Survived:
    """What the ranks of a run had saved (`strategies.state.Saved`), in the copies of those who are left.

    Made by all of them together.
    """

    def __init__(self, comm: Communicator, copy: Copy):
        self.comm, self.copy = comm, copy
        self.ranks = len(copy.ranks)
        place = copy.ranks.index(comm.control.rank)
        everyone = comm.allgather([place, copy.source, copy.rest.views.keys() >= copy.shared])
        self.holders = {other: rank for rank, (_, other, _) in enumerate(everyone) if other is not None}
        self.holders |= {own: rank for rank, (own, _, _) in enumerate(everyone)}
        self.lost = set(range(self.ranks)) - self.holders.keys()
        self.whole = [rank for rank, (_, _, whole) in enumerate(everyone) if whole]

    def own(self) -> dict[str, np.ndarray]:
        return self.copy.rest.views | self.copy.own.views

    def of(self, rank: int) -> dict[str, np.ndarray]:
        """Cost: a broadcast of what that rank alone had."""
        holder, copy = self.holders[rank], self.copy
        ours = copy.ranks[rank] == self.comm.control.rank
        arrays = self.hand_out(copy.own if ours else copy.theirs, holder)
        if rank > min(self.holders) or not self.whole:
            return arrays
        if len(self.whole) == self.comm.size:
            return copy.rest.views | arrays
        return self.hand_out(copy.rest, self.whole[0]) | arrays

    def hand_out(self, packed: Packed | None, root: int) -> dict[str, np.ndarray]:
        """The arrays of rank `root`, on every rank."""
        here = self.comm.rank == root
        layout = self.comm.bcast(packed.layout if here else None, root)
        arrays = packed if here else Packed([(name, dtype, shape) for name, dtype, shape in layout])
        if arrays.memory.size:
            broadcast(self.comm, arrays.memory, root)
        return arrays.views
