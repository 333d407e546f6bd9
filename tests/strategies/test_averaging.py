"""Averaging and one-shot averaging against the same methods written out for replicas in one process."""

from dataclasses import dataclass

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.strategies.averaging import AveragingOptions
from tests.runs import relative
from tests.strategies.quadratic import LR, Descent, gradient, mean_of, origin, samples, trained

RANKS = 4


def averaged(steps=14, **settings):
    return trained(RANKS, "averaging", steps, **settings)


# The outer optimizers by the letters of their papers. Each moves the model that is handed out (at first x₀) when the
# replicas' mean is known; lr is the inner optimizer's.


@dataclass
class DiLoCo:
    """2311.08105, algorithm 1, with Nesterov momentum as PyTorch has it; lr 1, momentum 0: local SGD."""

    handed_out: np.ndarray
    outer_lr: float = 0.7
    mu: float = 0.9
    nesterov: bool = True
    u: float = 0.0

    def move(self, mean, lr):
        outer_gradient = self.handed_out - mean
        self.u = self.mu * self.u + outer_gradient
        ahead = outer_gradient + self.mu * self.u if self.nesterov else self.u
        self.handed_out = self.handed_out - self.outer_lr * ahead


class BlockMomentum:
    """Chen & Huo 2016: the global model W, and W_g that is handed out: W, or with Nesterov's block momentum W + m D."""

    def __init__(self, x0, zeta=1.0, m=0.75, nesterov=False):
        self.W, self.handed_out, self.D = x0, x0, np.zeros_like(x0)
        self.zeta, self.m, self.nesterov = zeta, m, nesterov

    def move(self, mean, lr):
        G = mean - self.handed_out
        self.D = self.m * self.D + self.zeta * G
        self.W = self.W + self.D
        self.handed_out = self.W + self.m * self.D if self.nesterov else self.W


class SlowMomentum:
    """1910.00643, algorithm 1."""

    def __init__(self, x0, alpha=1.0, beta=0.5):
        self.handed_out, self.u, self.alpha, self.beta = x0, np.zeros_like(x0), alpha, beta

    def move(self, mean, lr):
        if lr == 0:  # not in the paper: u counts for nothing, and the step is the rest of the formula
            self.handed_out = self.handed_out - self.alpha * (self.handed_out - mean)
            return
        self.u = self.beta * self.u + (self.handed_out - mean) / lr
        self.handed_out = self.handed_out - self.alpha * lr * self.u


def written_out(steps, period, outer, lr=lambda t: LR, sync_steps=0, ranks=RANKS):
    """All replicas in one list."""
    replicas, worked = [outer.handed_out] * ranks, np.zeros(ranks)
    for t in range(1, steps + 1):
        counts = [samples(r, t) for r in range(ranks)]
        if t <= sync_steps:
            step = mean_of([gradient(r, replicas[r]) for r in range(ranks)], counts)
            outer.handed_out = outer.handed_out - lr(t) * step
            replicas = [outer.handed_out] * ranks
            continue
        for r in range(ranks):
            if counts[r]:
                replicas[r] = replicas[r] - lr(t) * gradient(r, replicas[r])
        worked += counts
        if (t - sync_steps) % period == 0:
            outer.move(mean_of(replicas, worked), lr(t))
            replicas, worked = [outer.handed_out] * ranks, np.zeros(ranks)
    return outer.handed_out if worked.sum() == 0 else mean_of(replicas, worked)


def falling(t):
    """A learning rate that goes down, as a schedule's does."""
    return LR / (1 + 0.3 * t)


METHODS = {
    "local SGD": ({}, lambda x0: DiLoCo(x0, 1.0, 0.0)),
    "DiLoCo": ({"outer": "sgd"}, DiLoCo),
    "FedAvgM": ({"outer": "sgd", "outer_nesterov": False}, lambda x0: DiLoCo(x0, nesterov=False)),
    "outer SGD without momentum": (
        {"outer": "sgd", "outer_momentum": 0.0, "outer_lr": 0.5},
        lambda x0: DiLoCo(x0, 0.5, 0.0),
    ),
    "BMUF": ({"outer": "bmuf"}, BlockMomentum),  # m = 1 - 1 / RANKS
    "BMUF, Nesterov": (
        {"outer": "bmuf", "outer_nesterov": True, "outer_lr": 0.8, "outer_momentum": 0.6},
        lambda x0: BlockMomentum(x0, 0.8, 0.6, True),
    ),
    "SlowMo": ({"outer": "slowmo", "outer_lr": 0.9}, lambda x0: SlowMomentum(x0, 0.9)),
}


@pytest.mark.parametrize("steps", [12, 14])
@pytest.mark.parametrize("method", METHODS)
def test_the_method_of_the_paper(method, steps):
    """At an average and between two, with a learning rate that changes."""
    options, outer = METHODS[method]
    found = averaged(steps=steps, lr=falling, period=4, **options)
    assert relative(found, written_out(steps, 4, outer(origin()), falling)) < 1e-13


def test_post_local_sgd_with_an_outer_optimizer():
    found = averaged(steps=13, period=3, sync_steps=4, outer="sgd")
    assert relative(found, written_out(13, 3, DiLoCo(origin()), sync_steps=4)) < 1e-13


def test_one_shot_averaging():
    assert relative(trained(RANKS, "none", 9), written_out(9, 10**9, DiLoCo(origin()))) < 1e-13


# Identities


def test_an_outer_learning_rate_of_1_without_momentum_is_local_sgd():
    plain = averaged(period=3)
    assert (averaged(period=3, outer="sgd", outer_lr=1.0, outer_momentum=0.0) == plain).all()
    assert (averaged(period=3, outer="bmuf", outer_momentum=0.0) == plain).all()
    assert (averaged(period=3, outer="slowmo", outer_momentum=0.0) == plain).all()


def test_slowmo_is_bmuf_while_the_learning_rate_is_constant():
    same = {"outer_lr": 0.8, "outer_momentum": 0.6, "period": 3, "steps": 20}
    assert relative(averaged(outer="slowmo", **same), averaged(outer="bmuf", **same)) < 1e-13
    assert (
        relative(averaged(outer="slowmo", lr=falling, **same), averaged(outer="bmuf", lr=falling, **same))
        > 1e-4
    )


def test_diloco_is_bmuf_with_nesterov_momentum():
    same = {"outer_lr": 0.7, "outer_momentum": 0.9, "outer_nesterov": True, "period": 3}
    assert relative(averaged(outer="sgd", **same), averaged(outer="bmuf", **same)) < 1e-13


def test_a_schedule_that_ends_at_0_leaves_slowmo_finite():
    """A cosine may. Nothing is divided by 0, and x₀ goes to where the replicas are."""

    def rate(t):
        return LR * (t != 12)

    found = averaged(steps=12, lr=rate, period=4, outer="slowmo")
    assert relative(found, written_out(12, 4, SlowMomentum(origin()), rate)) < 1e-13


@pytest.mark.parametrize("outer", ["average", "sgd", "bmuf", "slowmo"])
def test_the_outer_gradient_descends(outer):
    """On one quadratic for all, x₀ - mean(x) = (1 - (1 - η k)^H) (x₀ - b): by its sign x₀ goes to b or away from it."""

    def body(comm):
        run = Descent(comm, "averaging", period=4, outer=outer, rank=0, ranks=[0] * comm.size)
        away = [np.abs(gradient(0, run.steps(4).merged())).max() for _ in range(40)]
        return np.abs(gradient(0, origin())).max(), away

    before, away = run_ranks(2, body)[0]
    assert away[0] < before and away[-1] < 1e-2 * before


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outer_lr": 0.5}, "--outer-lr is used by --outer sgd|bmuf|slowmo; this run has --outer average"),
        ({"outer_momentum": 0.5}, "--outer-momentum is used by"),
        ({"outer": "slowmo", "outer_nesterov": True}, "--outer-nesterov is used by --outer sgd|bmuf;"),
        ({"period": 8, "node_period": 3}, "--node-period 3 does not divide --period 8"),
        ({"period": 2, "node_period": 4}, "--node-period 4 does not divide --period 2"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(UserError) as error:
        AveragingOptions(**options)
    assert words in str(error.value)
