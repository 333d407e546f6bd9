"""Going on from what memory holds, with another number of ranks or as many: for the contracts, on any communicator."""

import contextlib
import functools
from collections.abc import Collection

import numpy as np
import pytest

from mpidp.comm import Communicator, run_ranks
from mpidp.strategies import STRATEGIES
from mpidp.strategies.state import StateLost
from tests.runs import SGD, Run, alone, from_rank, options, possible, relative, same_everywhere

MOMENTUM = ("sgd", {"momentum": 0.9})
ADAMW = {"optimizer": ("adamw", {}), "lr": 0.01, "clip": 0.5}


class Memory:
    """`Saved` of the first `ranks` ranks of `comm`, every rank's arrays on every rank."""

    def __init__(
        self, comm: Communicator, ranks: int, arrays: dict[str, np.ndarray], lost: Collection[int] = ()
    ):
        self.ranks, self.lost, self.rank = ranks, lost, comm.rank
        self.arrays = [from_rank(rank, comm, arrays) for rank in range(ranks)]

    def own(self) -> dict[str, np.ndarray]:
        return self.of(0) | self.of(self.rank)

    def of(self, rank: int) -> dict[str, np.ndarray]:
        assert rank not in self.lost
        return {name: array.copy() for name, array in self.arrays[rank].items()}


def first(comm: Communicator, ranks: int) -> Communicator | None:
    """The first so many ranks of `comm`; None on the others."""
    part = comm.Split(int(comm.rank >= ranks), comm.rank)
    return part if comm.rank < ranks else None


def regrouped(comm: Communicator, before: int, after: int, steps: int, lost: Collection[int] = (),
              **settings) -> tuple[Run | None, Run | None, np.ndarray]:  # fmt: skip
    """A run of `steps` steps on `before` ranks, one on `after` ranks that has taken up its state, the former's model.

    The runs are None on those ranks of `comm` that have no part in them. `lost`: ranks whose state is not to be had.
    """
    part, arrays, model = first(comm, before), {}, {}
    old = Run(part, **settings).steps(steps) if part else None
    if old:
        arrays = old.strategy.saved(whole=bool(lost))
        model = {"model": old.merged()}
    saved = Memory(comm, before, arrays, lost)
    model = from_rank(0, comm, model)["model"]
    return old, resumed(first(comm, after), saved, steps, **settings), model


def resumed(comm: Communicator | None, saved: Memory, steps: int, **settings) -> Run | None:
    """A run on the ranks of `comm` that has taken up what is saved of `steps` steps."""
    if comm is None:
        return None
    run = Run(comm, **settings)
    run.strategy.resume(saved)
    comm.Barrier()  # where there is one copy of the parameters, all have written it before one steps
    run.t = steps
    return run


@functools.cache
def promises(name: str, case: int, ranks: int) -> tuple[bool, bool]:
    """Whether it is exact on so many ranks, and has the same state on all of them."""
    strategies = run_ranks(ranks, lambda comm: Run(comm, name, case).strategy)
    return strategies[0].exact(), strategies[0].replicated


def goes_on(comm: Communicator, name: str, case: int, before: int, after: int, lost: Collection[int] = ()):
    """The model is what it was. Where both numbers of ranks compute what one process does, they do so together; with
    momentum, where that is the same on all ranks.
    """
    both = [promises(name, case, ranks) for ranks in (before, after)]
    exact, replicated = (all(column) for column in zip(*both, strict=True))
    settings = {"optimizer": MOMENTUM if replicated else SGD} if exact else ADAMW
    _, run, model = regrouped(comm, before, after, 5, lost, name=name, case=case, **settings)
    if run is None:
        return
    merged = run.merged()
    assert same_everywhere(run.comm, merged)
    if not lost or replicated:
        assert relative(merged, model) <= 1e-14
    merged = run.steps(7).merged()
    assert same_everywhere(run.comm, merged) and np.isfinite(merged).all()
    if exact and (not lost or replicated):
        assert relative(merged, alone(12, **settings)) <= 1e-12
    run.strategy.summary()


def goes_on_with_other_ranks(comm: Communicator, name: str, case: int):
    """One rank less, from what all or all but one had saved; and twice as many."""
    size = comm.size
    lost = 0 if size % 2 else size - 1
    if possible(name, case, size - 1):
        goes_on(comm, name, case, size, size - 1)
        owners = STRATEGIES[name].owners(size, options(name, case))
        if lost in owners:
            named = pytest.raises(StateLost, match=f"rank {lost} of {size} alone had")
            with named if comm.rank < size - 1 else contextlib.nullcontext():
                regrouped(comm, size, size - 1, 1, {lost}, name=name, case=case)
        else:
            goes_on(comm, name, case, size, size - 1, {lost})
    if possible(name, case, size // 2):
        goes_on(comm, name, case, size // 2, size)
