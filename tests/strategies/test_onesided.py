"""What is peculiar to parameters in windows."""

import threading

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.optim import OPTIMIZERS
from tests.runs import Run, relative
from tests.strategies.turns import ORDER, WrittenOut, in_turns


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_ranks_add_what_their_own_optimizers_change(optimizer):
    merged, summary = in_turns(3, "onesided", {}, ORDER, optimizer=(optimizer, {}), lr=0.05)
    run, kind = WrittenOut(3), OPTIMIZERS[optimizer]
    steppers = [kind(kind.Options(), run.model.parameters, 0, run.model.size, run.x) for _ in range(3)]
    for rank, step, g, copy, _ in run.gradients(ORDER):
        changed = copy.copy()
        steppers[rank].step(changed, g, 0, 0.05, step)
        run.x = run.x + (changed - copy)
    assert relative(merged, run.x) <= 1e-12
    assert summary["staleness"] == run.histogram


def test_a_slow_rank_does_not_hold_up_the_others():
    """It makes its first step when the others have made their last; nothing that was added is lost."""
    ahead = threading.Barrier(3)

    def body(comm):
        run = Run(comm, "onesided", 0)
        if comm.rank == 2:
            ahead.wait(5)
        start = run.strategy.params.copy()
        run.steps(10)
        if comm.rank < 2:
            ahead.wait(5)
        return run.merged() - start, run.strategy.summary()["staleness"]

    change, histogram = run_ranks(3, body)[0]
    assert np.linalg.norm(change) > 0 and sum(histogram.values()) == 3 * 10 and histogram["20"] == 1
