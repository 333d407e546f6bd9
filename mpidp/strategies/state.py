"""What a strategy keeps, and how a run takes up what another has kept: of as many ranks as it was, or of others."""

from typing import Protocol

import numpy as np

from mpidp.arrays import Array
from mpidp.comm import Communicator
from mpidp.compression import Sum


class Saved(Protocol):
    """What `Strategy.saved` gave on each rank of a run, at one step: in files, or in the memory of survivors."""

    ranks: int  # of that run

    def own(self) -> dict[str, np.ndarray]:
        """This rank's arrays: rank 0's, replaced by its own. Where that run had as many ranks as this one."""

    def of(self, rank: int) -> dict[str, np.ndarray]:
        """What that rank saved. All ranks ask for the same ranks in the same order: memory's answers take messages."""


class Stateful:
    """The part of a strategy that is state. Reads `comm`, `params` and `summing` of the strategy."""

    comm: Communicator
    params: Array
    summing: Sum | None

    replicated = True
    """Whether `params` and `state()` are the same on every worker at every step, so that one copy is a checkpoint."""

    def state(self) -> dict[str, Array]:
        """All that a resume needs beside `params`, as flat arrays."""
        return {}

    def saved(self) -> dict[str, Array]:
        """What this rank writes into a checkpoint. A rank resumes from rank 0's arrays, replaced by its own."""
        if self.replicated and self.comm.rank > 0:
            return prefixed("state", self.sum_state())
        return {"params": self.params} | prefixed("state", self.state())

    def resume(self, saved: Saved) -> None:
        """Take up what a run has saved, of whatever number of ranks (after `start`)."""
        arrays = saved.own() if saved.ranks == self.comm.size else self.regroup(saved)
        self.params[...] = arrays["params"]
        self.load_state(unprefixed("state", arrays))

    def regroup(self, saved: Saved) -> dict[str, np.ndarray]:
        """What this rank takes up of a run of another number of ranks: as its own `saved` would be."""
        return saved.of(0)

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


def prefixed(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    """The same arrays under names that begin with `prefix.`"""
    return {f"{prefix}.{name}": array for name, array in state.items()}


def unprefixed(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    """Those of the arrays whose names begin with `prefix.`, without it."""
    start = prefix + "."
    return {name[len(start) :]: array for name, array in state.items() if name.startswith(start)}


def counter(value: int) -> np.ndarray:
    """A whole number as `state()` holds it."""
    return np.array([value], np.int64)
