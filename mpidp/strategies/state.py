"""What a strategy keeps, and how a run takes up what another has kept: of as many ranks as it was, or of others."""

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np

from mpidp.arrays import Array, array_module
from mpidp.comm import Communicator
from mpidp.compression import Sum
from mpidp.errors import RunError
from mpidp.takeover import BOUNDS, Rule, Rules, Same, require_whole, rule_of, share


class Saved(Protocol):
    """What `Strategy.saved` gave on each rank of a run, at one step: in files, or in the memory of survivors."""

    ranks: int  # of that run
    lost: Collection[int]  # those of them whose arrays are gone; the same on all ranks, and none in files

    def own(self) -> dict[str, np.ndarray]:
        """This rank's arrays: rank 0's, replaced by its own. Where that run had as many ranks, and none is lost."""

    def of(self, rank: int) -> dict[str, np.ndarray]:
        """What that rank saved, which is not lost.

        All ranks ask for the same ranks in the same order: memory's answers take messages.
        """


class StateLost(RunError):
    """State that one rank alone had is gone with it: only a checkpoint has it. Raised on all ranks together."""


class Stateful:
    """The part of a strategy that is state. Reads what is named here of the strategy."""

    comm: Communicator
    options: Any
    workers: int
    worker: int | None
    params: Array
    summing: Sum | None

    replicated = True
    """Whether `params` and `state()` are the same on every worker at every step, so that one copy is a checkpoint."""

    def state(self) -> dict[str, Array]:
        """All that a resume needs beside `params`, as flat arrays."""
        return {}

    def saved(self, whole: bool = False) -> dict[str, Array]:
        """What this rank writes into a checkpoint. A rank resumes from rank 0's arrays, replaced by its own.

        What is the same on all ranks is rank 0's to write; `whole`: it is there on every rank, for when rank 0 is lost.
        """
        if self.replicated and self.comm.rank > 0 and not whole:
            return prefixed("state", self.sum_state())
        return {"params": self.params} | prefixed("state", self.state())

    def resume(self, saved: Saved) -> None:
        """Take up what a run has saved, of whatever number of ranks (after `start`).

        Raises StateLost where a rank is lost that was one of `owners`; ValueError or KeyError for another model's.
        """
        same = saved.ranks == self.comm.size and not saved.lost
        arrays = saved.own() if same else self.regroup(saved)
        kept = self.saved(whole=True)
        require_fit(arrays, kept)
        for name, array in arrays.items():
            like = self.params if name == "params" else kept.get(name)
            if like is not None:
                arrays[name] = array_module(like).asarray(array)  # to the device, where it is kept there
        self.params[...] = arrays["params"]
        self.load_state(unprefixed("state", arrays))

    @classmethod
    def owners(cls, ranks: int, options: Any) -> range:
        """Of a run of so many ranks, those whose state no other has: without one of them there is no going on.

        Where each has a part of the vector, they save its bounds (`takeover.BOUNDS`).
        """
        return range(0)

    def rules(self) -> Rules:
        """How another number of ranks takes over what `saved` gives."""
        return {"": Same}

    def regroup(self, saved: Saved) -> dict[str, np.ndarray]:
        """What this rank takes up of a run of another number of ranks: as its own `saved` would be.

        Workers that are lost take with them what they alone had done, and the shares are those of the others.
        """
        owners = self.owners(saved.ranks, self.options)
        if gone := [rank for rank in owners if rank in saved.lost]:
            raise StateLost(f"rank {gone[0]} of {saved.ranks} alone had its part of the model's state")
        rules = self.rules() | prefixed("state.sum", self.summing.rules if self.summing else {})
        left = [rank for rank in range(saved.ranks) if rank not in saved.lost]
        had = sum(rank < self.count_workers(saved.ranks, self.options) for rank in left)
        taken: dict[str, Rule] = {}
        parts: list[tuple[int, int]] = []
        for i, rank in enumerate(left):
            arrays, ours = saved.of(rank), share(i, had, self.worker, self.workers)
            if BOUNDS in arrays:
                parts.append(tuple(arrays[BOUNDS].tolist()))
            for name in arrays.keys() - {BOUNDS}:
                if name not in taken:
                    taken[name] = rule_of(rules, name)
                taken[name].add(name, arrays, ours)
        if parts:
            require_whole(parts, self.params.size)
        results = {name: rule.result() for name, rule in taken.items()}
        return {name: array for name, array in results.items() if array is not None}

    def load_state(self, state: dict[str, Array]) -> None:
        """Take up what `state()` returned (after `start`)."""

    def sum_state(self) -> dict[str, Array]:
        """The part of `state()` that is of `summing`: the residuals of an encoding differ between ranks."""
        return prefixed("sum", self.summing.state()) if self.summing else {}

    def load_sum_state(self, state: dict[str, Array]) -> dict[str, Array]:
        """Take up what is of `sum_state()`; the rest of the state."""
        ours = unprefixed("sum", state)
        if ours:
            self.summing.load_state(ours)
        return {name: array for name, array in state.items() if not name.startswith("sum.")}


def require_fit(arrays: dict[str, np.ndarray], ours: dict[str, Array]) -> None:
    """Raise ValueError where a vector is not of the length and type of ours: NumPy would stretch it, or round it."""
    for name, array in ours.items():
        found = arrays.get(name, array)
        is_vector = array.dtype.kind == "f" and array.size > 1
        if is_vector and (found.shape != array.shape or found.dtype != array.dtype):
            raise ValueError(f"{name} is {found.dtype} of {found.shape}, not {array.dtype} of {array.shape}")


def prefixed(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    """The same arrays under names that begin with `prefix.`"""
    return {f"{prefix}.{name}": array for name, array in state.items()}


def unprefixed(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    """Those of the arrays whose names begin with `prefix.`, without it."""
    start = prefix + "."
    return {name[len(start) :]: array for name, array in state.items() if name.startswith(start)}


def bounds(part: slice) -> dict[str, np.ndarray]:
    """Where an owner's part begins and ends, as `saved` gives it."""
    return {BOUNDS: np.array([part.start, part.stop], np.int64)}


def counter(value: int) -> np.ndarray:
    """A whole number as `state()` holds it."""
    return np.array([value], np.int64)


def amount(value: float) -> np.ndarray:
    """A number of samples as `state()` holds it: a whole one, until another number of ranks has shared them out."""
    return np.array([value], np.float64)
