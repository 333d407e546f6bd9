"""Strategies with every encoding that they take: the same bits, the stated traffic, resumed runs, and training."""

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator, run_ranks
from mpidp.compression import COMPRESSORS, PLAIN, Encoding
from mpidp.strategies import STRATEGIES, Strategy
from tests.regrouping import Memory, first
from tests.runs import CASES, Run, options, possible, same_everywhere

OPTIONS = {
    "topk": {"density": 0.1},
    "randomk": {"density": 0.2},
    "dgc": {"density": 0.1, "density_warmup": 4},
    "onebit-adam": {"freeze_after": 2},
}
OPTIMIZER = {"dgc": ("sgd", {}), "sign": ("sgd", {})}
LR = {"dgc": 0.2, "sign": 0.003}
RANKS = {"allreduce": 4, "sharded": 2, "server": 4}


def takes(strategy: type[Strategy], case: int, kind: type[Encoding]) -> bool:
    options = strategy.Options(**strategy.cases[case])
    if strategy.encodes is None or strategy.encodes in kind.unfit:
        return False
    return strategy.by_route(options) or not strategy.uses_collective


GRID = [
    (name, case, encoding)
    for name, case in CASES
    for encoding, kind in COMPRESSORS.items()
    if case < 3 - STRATEGIES[name].uses_collective
    and encoding != PLAIN
    and takes(STRATEGIES[name], case, kind)
]


def make(comm: Communicator, name: str, case: int, encoding: str, **settings) -> Run:
    settings = {"optimizer": OPTIMIZER.get(encoding, ("adamw", {})), "lr": LR.get(encoding, 0.01)} | settings
    route = "ring" if COMPRESSORS[encoding].unable(COLLECTIVES["ring"]) is None else "pairwise"
    return Run(comm, name, case, compress=(encoding, OPTIONS.get(encoding, {})), collective=route, **settings)


def keeps_its_contracts(comm: Communicator, name: str, case: int, encoding: str) -> None:
    """Traffic as the formula says; one model at the end; resumed in the middle with the same bits."""
    clip = 0.5 if COMPRESSORS[encoding].clips else None
    run = make(comm, name, case, encoding, clip=clip)
    before = run.strategy.comm.traffic.copy()
    run.steps(5)
    saved = Memory(comm, comm.size, run.strategy.saved())
    run.steps(5)
    sent = run.strategy.comm.traffic - before
    costs = [run.strategy.cost(t) for t in range(1, 11)]
    assert (sent.messages, sent.bytes) == tuple(map(sum, zip(*costs, strict=True)))
    merged = run.merged()
    assert same_everywhere(comm, merged)
    again = make(comm, name, case, encoding, clip=clip)
    again.strategy.resume(saved)
    comm.Barrier()
    again.t = 5
    assert (again.steps(5).merged() == merged).all()


@pytest.mark.parametrize(("name", "case", "encoding"), GRID)
def test_contracts(name, case, encoding):
    ranks = RANKS.get(name, 3)
    assert possible(name, case, ranks)
    run_ranks(ranks, keeps_its_contracts, name, case, encoding)


def keeps_what_was_kept(comm: Communicator, name: str, case: int, encoding: str) -> None:
    """Taken up by fewer ranks, and what these have then by more: Σ residuals, Σ momenta, and all that is the same."""
    few, found = RANKS.get(name, 3), []
    run = saved = None
    for ranks in (few, few - 1, comm.size):
        part = first(comm, ranks)
        run = make(part, name, case, encoding) if part else None
        if run and saved:
            run.strategy.resume(saved)
        elif run:
            run.steps(5)
        saved = Memory(comm, ranks, run.strategy.saved() if run else {})
        found.append(totals(saved, STRATEGIES[name].count_workers(ranks, options(name, case))))
    assert found[0].keys() == found[1].keys() == found[2].keys() and "state.sum.turns" in found[0]
    for key, total in found[0].items():
        for other in found[1:]:
            assert np.linalg.norm(other[key] - total) <= 1e-14 * np.linalg.norm(total), key
    run.t = 5
    assert np.isfinite(run.steps(3).merged()).all()


def totals(saved: Memory, workers: int) -> dict[str, np.ndarray]:
    """Of what encodings keep: the sum over workers, or what they all have."""
    everyone = [saved.of(rank) for rank in range(workers)]
    totals = {}
    for key in everyone[0]:
        if key.startswith("state.sum."):
            arrays = [arrays[key] for arrays in everyone]
            same = key.endswith((".turns", ".q"))
            assert not same or all((array == arrays[0]).all() for array in arrays)
            totals[key] = arrays[0] if same else np.sum(arrays, axis=0)
    return totals


@pytest.mark.parametrize(("name", "case", "encoding"), [entry for entry in GRID if entry[1] == 0])
def test_other_ranks_keep_what_was_kept(name, case, encoding):
    run_ranks(5, keeps_what_was_kept, name, case, encoding)


def loss(encoding: str, steps: int) -> float:
    """That of the whole training set after so many steps by all-reduce."""

    def body(comm):
        run = make(comm, "allreduce", 0, encoding).steps(steps)
        return run.model.evaluate(run.x, run.y)[0]

    return run_ranks(3, body)[0]


@pytest.mark.parametrize("encoding", [name for name in COMPRESSORS if name != PLAIN])
def test_training_descends(encoding):
    assert loss(encoding, 60) < 0.6 * loss(encoding, 0)
