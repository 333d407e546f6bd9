"""What a run is said to need before it begins, against what it then has."""

import gc
import re
import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from mpidp import memory
from mpidp.comm import run_ranks
from mpidp.config import resolve
from mpidp.errors import UserError
from mpidp.memory import need
from mpidp.routing import Choice
from mpidp.strategies import STRATEGIES
from tests.runs import CASES, Run, options, possible

RANKS = 4
HIDDEN = "500,500"  # so that vectors are far longer than all else
ADAMW = ("adamw", {})


def config(name, case, **run):
    found = resolve({}, {})
    found.run.sync, found.sync, found.run.optimizer = name, options(name, case), "adamw"
    for option, value in run.items():
        setattr(found.run, option, value)
    return found


def needs(name, case, n, route="ring", **run):
    found, strategy = config(name, case, **run), STRATEGIES[name]
    chosen = Choice(route) if strategy.by_route(found.sync) else None
    return [need(strategy, found, rank, RANKS, n, np.float64, chosen) for rank in range(RANKS)]


@pytest.mark.parametrize("name, case", [one for one in CASES if possible(*one, RANKS)])
def test_vectors_are_those_that_there_are(name, case):
    """Of all ranks together, as Python counts them: never more than was said, and not much less."""
    found = {}
    barrier = threading.Barrier(RANKS)

    def body(comm):
        run = Run(comm, name, case, optimizer=ADAMW, hidden=HIDDEN)
        run.steps(9)
        comm.Barrier()
        barrier.wait()
        if comm.rank == 0:
            gc.collect()
            others = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*/mpidp/nn/*")])
            found["bytes"] = sum(trace.size for trace in others.traces)
        barrier.wait()
        run.merged()  # a sum may be under way
        whole = run.strategy.saved(whole=True)
        return run.model.size, sum(array.nbytes for array in whole.values())

    gc.collect()
    tracemalloc.start()
    n, _ = zip(*(results := run_ranks(RANKS, body)), strict=True)
    tracemalloc.stop()
    said = needs(name, case, n[0], checkpoint_every=1)
    vector = 8 * n[0]
    total = sum(each.vectors + each.route for each in said)
    assert found["bytes"] / vector < total + 0.45 * RANKS  # and blocks to work in
    if STRATEGIES[name].deterministic and name != "server":  # else it depends on who is late
        assert found["bytes"] / vector > 0.7 * total - 1
    for rank, (each, (_, saved)) in enumerate(zip(said, results, strict=True)):
        if each.checkpoints:
            assert saved / vector == pytest.approx(each.checkpoints, rel=0.01), rank


def test_what_each_policy_keeps():
    """Two copies of the state, and two of what a neighbour alone has; a checkpoint where a rank writes one."""
    n, m = 10**6, 2  # AdamW's vectors
    plain = needs("allreduce", 0, n)
    assert [each.copies + each.checkpoints for each in plain] == [0] * RANKS
    shrinking = needs("allreduce", 0, n, copy_every=10, checkpoint_every=10)
    assert [each.checkpoints for each in shrinking] == [1 + m, 0, 0, 0]
    assert [each.copies for each in shrinking] == [2 * (1 + m)] * RANKS
    sharded = needs("sharded", 0, n, copy_every=10)[0]
    assert sharded.copies == 2 * (1 + m / RANKS) + 2 * m / RANKS
    averaging = needs("averaging", 0, n, copy_every=10, checkpoint_every=10)[3]
    assert averaging.checkpoints == 2 + m and averaging.copies == 2 * (2 + m) and averaging.looking == 2
    assert needs("sharded", 0, n, "ring")[0].route == pytest.approx(1 / RANKS)
    assert needs("sharded", 0, n, "halving-doubling")[0].route == pytest.approx(1 / 2)


@pytest.mark.parametrize("staleness", [0, 2, 9])
def test_servers_hold_pushes(staleness):
    case = {"consistency": "stale", "staleness": staleness, "servers": 2}
    workers, servers = needs("server", case, 1000)[:2], needs("server", case, 1000)[2:]
    for each in workers:
        assert each.vectors == 2
    for each in servers:
        assert each.vectors == 2 + 2 / 2 + max(2, (staleness + 1) * 2) / 2


REFUSED = [
    ("sharded", {}, "halving-doubling", {}, r"3\.5 vectors \(0\.5 for sums over ranks\)"),
    ("averaging", {}, "ring", {"checkpoint_every": 5}, "4 for checkpoints, 2 for evaluation"),
    ("server", {"consistency": "stale", "staleness": 30}, "ring", {}, "35 vectors"),
    ("allreduce", {}, "ring", {"copy_every": 10}, "6 for --on-failure shrink"),
]


@pytest.mark.parametrize("name, case, route, run, words", REFUSED)
def test_the_refusal_says_what_for(monkeypatch, name, case, route, run, words):
    """By a machine that has 1 MiB left for 2 ranks."""
    monkeypatch.setattr(memory, "memory_available", lambda: 1 << 20)
    found, strategy = config(name, case, **run), STRATEGIES[name]
    model = SimpleNamespace(size=10**6, dtype=np.dtype(np.float32))
    chosen = Choice(route) if strategy.by_route(found.sync) else None

    def body(comm):
        with pytest.raises(UserError) as caught:
            memory.require_memory(model, strategy, found, comm, SimpleNamespace(free=None), chosen)
        return str(caught.value)

    for line in run_ranks(2, body):
        assert re.search(words, line) and "more than the 0.0 GiB that are free: a smaller model" in line, line
