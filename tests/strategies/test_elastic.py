"""Elastic averaging against its paper: the equations written out, what they conserve, and where they are stable."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from tests.runs import relative
from tests.strategies.quadratic import LR, Descent, N, curvature, gradient, origin, samples, target

RANKS = 3


def exchanged(a, ranks=RANKS):
    """One exchange, without a step, of replicas that lie anywhere: (replicas and centre before, and after)."""

    def body(comm):
        run = Descent(comm, "elastic", lr=0.0, period=1, elasticity=a)
        run.params[...] = np.random.default_rng(comm.rank).normal(size=N)
        before = run.params.copy()
        run.steps(1)
        return before, run.params.copy(), run.merged()

    before, after, centres = zip(*run_ranks(ranks, body), strict=True)
    assert len({centre.tobytes() for centre in centres}) == 1
    return np.array(before), np.array(after), centres[0]


@pytest.mark.parametrize("a", [0.1, 1 / RANKS, 1 / (RANKS + 1), 0.45])
def test_one_exchange(a):
    x, moved, centre = exchanged(a)
    c = origin()
    close = {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(moved, x - a * (x - c), **close)
    np.testing.assert_allclose(centre, c + a * (x - c).sum(0), **close)
    np.testing.assert_allclose(moved.sum(0) + centre, x.sum(0) + c, **close)
    np.testing.assert_allclose(moved[0] - moved[1], (1 - a) * (x[0] - x[1]), **close)
    np.testing.assert_allclose(moved.mean(0) - centre, (1 - (RANKS + 1) * a) * (x.mean(0) - c), **close)


def test_a_moving_rate_of_1_takes_the_centre_to_the_mean_of_the_replicas():
    x, _, centre = exchanged(1 / RANKS)
    np.testing.assert_allclose(centre, x.mean(0), rtol=1e-12)


def test_at_1_over_ranks_plus_1_the_mean_of_all_is_reached_at_once():
    x, moved, centre = exchanged(1 / (RANKS + 1))
    np.testing.assert_allclose(centre, (x.sum(0) + origin()) / (RANKS + 1), rtol=1e-12)
    np.testing.assert_allclose(moved.mean(0), centre, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [9, 11])
def test_easgd_and_eamsgd(steps, momentum):
    """All replicas in one list; with momentum inside (Nesterov's) it is EAMSGD."""
    x, c, v = [origin()] * RANKS, origin(), [np.zeros(N)] * RANKS
    a, period = 0.9 / RANKS, 3
    for t in range(1, steps + 1):
        for r in range(RANKS):
            if samples(r, t):
                g = gradient(r, x[r])
                v[r] = momentum * v[r] + g
                x[r] = x[r] - LR * (g + momentum * v[r] if momentum else g)
        if t % period == 0:
            apart = [x[r] - c for r in range(RANKS)]
            x = [x[r] - a * apart[r] for r in range(RANKS)]
            c = c + a * sum(apart)

    inner = ("sgd", {"momentum": momentum, "nesterov": True} if momentum else {})
    found = run_ranks(
        RANKS, lambda comm: Descent(comm, "elastic", period=period, optimizer=inner).steps(steps).merged()
    )
    assert relative(found[0], c) < 1e-13


def test_one_rank_is_a_linear_map():
    """Gradient step, then exchange, on a quadratic: (x - b, c - b) times a 2 x 2 matrix each step."""
    a, steps = 0.3, 20
    found = run_ranks(
        1,
        lambda comm: (
            Descent(comm, "elastic", period=1, elasticity=a, rank=2, ranks=[2]).steps(steps).merged()
        ),
    )
    for i, k in enumerate(curvature()):
        shrink = 1 - LR * k
        matrix = np.array([[(1 - a) * shrink, a], [a * shrink, 1 - a]])
        _, away = np.linalg.matrix_power(matrix, steps) @ np.full(2, origin()[i] - target(2)[i])
        assert found[0][i] == pytest.approx(target(2)[i] + away, rel=1e-12)


@pytest.mark.parametrize(("a", "stable"), [(0.499, True), (0.501, False)])
def test_the_limit_of_the_elasticity_is_where_exchanges_diverge(a, stable):
    """With 3 ranks 2 / (P + 1) = 0.5: below, distances die out; above they would grow, and so it is refused."""
    exchange = np.eye(RANKS + 1) - a * np.block(
        [[np.eye(RANKS), -np.ones((RANKS, 1))], [-np.ones((1, RANKS)), np.full((1, 1), RANKS)]]
    )
    assert (np.abs(np.linalg.eigvals(exchange)).max() <= 1 + 1e-12) == stable
    if stable:
        exchanged(a)
    else:
        with pytest.raises(UserError, match=r"--elasticity 0.501 with 3 rank\(s\).*less than .* = 0.5"):
            exchanged(a)
