"""The contracts of every strategy, with vectors on a device and ranks as threads."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from tests import conformance
from tests.on_device.sums import on_device
from tests.runs import CASES, Run, options, rank_counts, relative

POSSIBLE = [(name, case) for name, case in CASES if getattr(options(name, case), "stage", 1) == 1]


def few_ranks(name: str, case: int) -> int:
    """Three, where the strategy works with three."""
    counts = rank_counts(name, case)
    return 3 if 3 in counts else max(counts)


@pytest.mark.parametrize(("name", "case"), POSSIBLE)
def test_equals_the_host(cupy, name, case):
    """An optimizer that has state, and clipping, in float64: what is deterministic is the same to the last digits."""

    def body(comm):
        run = Run(comm, name, case, optimizer=("adamw", {}), clip=0.5, lr=0.01).steps(6)
        return run.strategy.deterministic, run.merged()

    ranks = few_ranks(name, case)
    host, device = run_ranks(ranks, body), run_ranks(ranks, on_device(cupy, body))
    for (deterministic, theirs), (_, ours) in zip(host, device, strict=True):
        assert np.isfinite(ours).all() and (ours == device[0][1]).all()
        if deterministic:
            assert relative(ours, theirs) <= 1e-11


@pytest.mark.parametrize(("name", "case"), POSSIBLE)
def test_resumes_with_the_same_bits(cupy, name, case):
    run_ranks(few_ranks(name, case), on_device(cupy, conformance.resumes_with_the_same_bits), name, case)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, case in POSSIBLE if case == 0])
def test_sends_in_all_what_the_formula_says(cupy, name, case):
    """A message counts when it leaves, which may be after the step that it belongs to."""

    def body(comm):
        run = Run(comm, name, case, clip=1.0).steps(10)
        while run.strategy.comm.pool.leaving:
            run.strategy.comm.pool.start_due()
        sent = run.strategy.comm.traffic.copy()
        assert sent.staged_bytes >= sent.bytes
        found = sent.messages, sent.bytes
        run.merged()
        return found, run.strategy.total_cost(10)

    def started(comm):
        strategy = Run(comm, name, case, clip=1.0).strategy
        sent = strategy.comm.traffic.copy()
        return sent.messages, sent.bytes

    ranks = few_ranks(name, case)
    before = run_ranks(ranks, on_device(cupy, started))
    for (sent, cost), at_first in zip(run_ranks(ranks, on_device(cupy, body)), before, strict=True):
        assert sent == tuple(map(sum, zip(at_first, cost, strict=True)))


def test_what_gives_memory_back_by_pages_is_refused(cupy):
    def body(comm):
        with pytest.raises(UserError, match="--stage 1"):
            Run(comm, "sharded", {"stage": 2})

    run_ranks(2, on_device(cupy, body))
