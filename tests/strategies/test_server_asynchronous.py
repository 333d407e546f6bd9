"""The asynchronous parameter server."""

import threading

import numpy as np
import pytest

from mpidp.comm import run_ranks
from tests.runs import Run, relative
from tests.strategies.turns import ORDER, WrittenOut, in_turns

ADAM = {"optimizer": ("adamw", {}), "lr": 0.01}
PLAIN = {"consistency": "asynchronous"}


@pytest.mark.parametrize("ranks", [2, 3])
def test_one_worker_is_sequential(ranks):
    def body(comm):
        options = {**PLAIN, "servers": ranks - 1, "scale_by_staleness": True, "delay_compensation": 1.0}
        return Run(comm, "server", options, **ADAM).steps(20).merged()

    alone = run_ranks(1, lambda comm: Run(comm, "allreduce", 0, **ADAM).steps(20).merged())[0]
    assert (run_ranks(ranks, body)[0] == alone).all()


def written_out(factor, scaled, lr=0.2):
    run = WrittenOut(3)
    for _, _, g, copy, staleness in run.gradients(ORDER):
        g = g + factor * g * g * (run.x - copy)
        run.x = run.x - lr / (max(1, staleness) if scaled else 1) * g
    return run.x, run.histogram


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(("factor", "scaled"), [(0.0, False), (0.0, True), (5.0, False), (5.0, True)])
def test_updates_are_those_of_the_papers(servers, factor, scaled):
    options = {
        **PLAIN,
        "servers": servers,
        "delay_compensation": factor or None,
        "scale_by_staleness": scaled,
    }
    merged, summary = in_turns(3 + servers, "server", options, ORDER)
    expected, histogram = written_out(factor, scaled)
    assert relative(merged, expected) <= 1e-12
    assert summary["staleness"] == histogram
    if factor or scaled:
        assert relative(written_out(0.0, False)[0], expected) > 1e-5


def test_compensation_by_nothing_is_none():
    runs = [
        in_turns(4, "server", {**PLAIN, "delay_compensation": factor}, ORDER, **ADAM)
        for factor in (0.0, None)
    ]
    assert (runs[0][0] == runs[1][0]).all()


def test_each_push_is_clipped():
    start, merged = (in_turns(4, "server", PLAIN, order, clip=1e-6, lr=1.0)[0] for order in ([], ORDER))
    assert 0 < np.linalg.norm(merged - start) <= len(ORDER) * 1e-6 * (1 + 1e-9)


def test_a_slow_worker_does_not_hold_up_the_others():
    """It makes its first step when the others have made all but their last."""
    ahead = threading.Barrier(3)

    def body(comm):
        run = Run(comm, "server", PLAIN)
        if run.strategy.worker in (0, 1):
            run.steps(9)
        if run.strategy.worker is not None:
            ahead.wait(5)
        run.steps(10 - run.t)
        return run.strategy.summary()["staleness"]

    histogram = run_ranks(4, body)[0]
    assert sum(histogram.values()) == 3 * 10 and 18 <= max(map(int, histogram)) <= 20
