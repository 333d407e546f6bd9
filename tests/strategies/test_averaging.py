"""Averaging and one-shot averaging against the same methods written out for replicas in one process."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.strategies.averaging import Averaging, AveragingOptions
from tests.conformance import BATCH, SAMPLES, Run, data, relative

RANKS, LR = 3, 0.2


def local_sgd(steps, period, outer_lr=1.0, outer_momentum=0.0, sync_steps=0, ranks=RANKS):
    """DiLoCo (2311.08105, algorithm 1) with plain SGD inside, as its text has it: all replicas in one list."""
    reference = run_ranks(1, lambda comm: Run(comm, "allreduce", 0))[0]
    split = type(reference.split)(SAMPLES, BATCH, ranks, 3, data()[1], None)
    model, (x, y) = reference.model, data()
    anchor = reference.strategy.params.copy()
    replicas = [anchor.copy() for _ in range(ranks)]
    momentum = np.zeros_like(anchor)
    worked = np.zeros(ranks)

    def mean_gradient(params, indices):
        model.params[...] = params
        model.gradients(x[indices], y[indices], 1.0 / len(indices))
        return model.grads.copy()

    for t in range(1, steps + 1):
        epoch, turn = divmod(t - 1, split.steps_per_epoch)
        parts = [split.part(epoch, turn, w)[0] for w in range(ranks)]
        if t <= sync_steps:
            anchor = anchor - LR * mean_gradient(anchor, np.concatenate(parts))
            replicas = [anchor.copy() for _ in range(ranks)]
            continue
        for w, indices in enumerate(parts):
            worked[w] += len(indices)
            if len(indices):
                replicas[w] = replicas[w] - LR * mean_gradient(replicas[w], indices)
        if (t - sync_steps) % period == 0:
            mean = sum(
                share * replica for share, replica in zip(worked / worked.sum(), replicas, strict=True)
            )
            pseudo_gradient = anchor - mean
            momentum = outer_momentum * momentum + pseudo_gradient
            anchor = anchor - outer_lr * (pseudo_gradient + outer_momentum * momentum)
            replicas = [anchor.copy() for _ in range(ranks)]
            worked[:] = 0
    if worked.sum() == 0:
        return anchor
    return sum(share * replica for share, replica in zip(worked / worked.sum(), replicas, strict=True))


def case_of(**options):
    return next(i for i, case in enumerate(Averaging.cases) if case == options)


def trained(name, case, steps):
    return run_ranks(RANKS, lambda comm: Run(comm, name, case).steps(steps).merged())[0]


@pytest.mark.parametrize("steps", [12, 14])
def test_local_sgd(steps):
    assert relative(trained("averaging", case_of(period=3), steps), local_sgd(steps, 3)) < 1e-13


@pytest.mark.parametrize("steps", [12, 14])
def test_diloco(steps):
    found = trained("averaging", case_of(period=4, outer="sgd"), steps)
    assert relative(found, local_sgd(steps, 4, 0.7, 0.9)) < 1e-13


def test_post_local_sgd_with_an_outer_optimizer():
    found = trained("averaging", case_of(period=3, sync_steps=4, outer="sgd"), 13)
    assert relative(found, local_sgd(13, 3, 0.7, 0.9, sync_steps=4)) < 1e-13


def test_one_shot_averaging():
    assert relative(trained("none", 0, 9), local_sgd(9, period=10**9)) < 1e-13


def test_the_outer_gradient_descends():
    """Δ = x₀ - mean(x): were its sign wrong, the loss would rise."""
    case = case_of(period=4, outer="sgd")

    def losses(comm):
        run = Run(comm, "averaging", case)
        before = run.model.evaluate(run.x, run.y)[0]
        run.steps(20)
        return before, run.model.evaluate(run.x, run.y)[0]

    before, after = run_ranks(RANKS, losses)[0]
    assert after < 0.9 * before


@pytest.mark.parametrize(
    ("options", "words"), [({"outer_lr": 0.5}, "--outer-lr"), ({"outer_momentum": 0.5}, "--outer-momentum")]
)
def test_outer_options_need_an_outer_optimizer(options, words):
    with pytest.raises(UserError, match=words):
        AveragingOptions(**options)
