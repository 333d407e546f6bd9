"""Local steps by speed: the plan, what ranks like each other do with it, and that a slow one is not waited for."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.strategies.averaging import AveragingOptions
from mpidp.strategies.speeds import LIKE, Speeds, plan
from tests.runs import Run
from tests.test_diagnostics import trained


def test_the_plan():
    assert plan(12, [1.0, 3.0, 1.0, 2.0]) == [12, 4, 12, 6]
    assert plan(12, [1.0, 0.99 * LIKE]) == [12, 12]
    assert plan(4, [1.0, 100.0, 0.0]) == [4, 1, 4]
    assert plan(4, [0.0, 0.0]) == [4, 4]


def steps_by(monkeypatch, seconds):
    """Have every rank believe that its steps take so long."""
    monkeypatch.setattr("mpidp.strategies.speeds.statistics.median", lambda found: 1.0)
    exchanged = Speeds.exchanged
    monkeypatch.setattr(
        Speeds, "exchanged",
        lambda self, samples: [(s, seconds[r]) for r, (s, _) in enumerate(exchanged(self, samples))],
    )  # fmt: skip


def merged(case, count=13, ranks=3):
    return run_ranks(ranks, lambda comm: Run(comm, "averaging", case).steps(count).merged())[0]


@pytest.mark.parametrize("outer", ["average", "sgd"])
def test_ranks_of_one_speed_do_what_they_do_without(monkeypatch, outer):
    """In every bit, after an average and between two."""
    steps_by(monkeypatch, [1.0, 1.0, 1.0])
    for count in (12, 13):
        plain, adapted = ({"period": 4, "outer": outer} | more for more in ({}, {"adapt_steps": True}))
        assert (merged(plain, count) == merged(adapted, count)).all()


def test_a_slow_rank_leaves_out_the_last_steps_of_a_round_and_counts_by_its_samples(monkeypatch):
    steps_by(monkeypatch, [1.0, 2.0])

    def body(comm):
        run, made = Run(comm, "averaging", {"period": 4, "adapt_steps": True}), []
        for t in range(1, 10):
            made.append(not run.strategy.behind(t))
            run.steps(1)
        return made, run.strategy.summary(), run.strategy.state()["local_steps"].tolist(), run.merged()

    (fast, facts, plan_, one), (slow, *_, other) = run_ranks(2, body)
    assert fast == [True] * 9 and slow == [True] * 4 + [True, True, False, False] + [True]
    assert plan_ == facts["local_steps_by_rank"] == [4, 2] and facts["samples_left_out"] > 0
    assert (one == other).all() and np.isfinite(one).all()


def test_a_slow_rank_is_waited_for_less(tmp_path):
    """By its own measurements: slowed three times, it makes about a third of the steps."""
    args = ["--model", "mlp", "--data", "synthetic-classes", "--samples", 600, "--batch-size", 64, "--hidden", 64,
            "--collective", "ring", "--sync", "averaging", "--period", 12, "--steps", 48, "--slow", "1:4"]  # fmt: skip
    facts = trained(2, tmp_path / "a", *args, "--adapt-steps")
    assert facts["local_steps_by_rank"][0] > facts["local_steps_by_rank"][1]
    assert 0 < facts["samples_left_out"] < 48 * 32
    assert (
        facts["samples"] + facts["samples_left_out"] == 4 * 600 + 8 * 64
    )  # 4 epochs, and 8 steps of a fifth


@pytest.mark.parametrize("more", [{"period": 1}, {"node_period": 2}])
def test_refused(more):
    with pytest.raises(UserError, match="--adapt-steps"):
        AveragingOptions(adapt_steps=True, **more)
