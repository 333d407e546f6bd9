"""Adasum against its definition written out, and the identities that the paper gives."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.nn.layer import Parameter, constant
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import STRATEGIES, Setup, Step
from tests.runs import Run, relative

SHAPES = {"a": (3, 5), "b": (7,), "c": (1,), "d": (11, 2)}


def tensors() -> list[Parameter]:
    found, lo = [], 0
    for name, shape in SHAPES.items():
        p = Parameter(name, shape, constant(0.0))
        p.lo, p.hi = lo, lo + p.size
        lo = p.hi
        found.append(p)
    return found


N = tensors()[-1].hi


def adasum(gradients: list[np.ndarray], dtype=np.float64) -> list[np.ndarray]:
    """What every rank ends with: x = -g from x = 0 under plain SGD with lr 1."""
    sgd = OPTIMIZERS["sgd"]

    def body(comm):
        def optimizer(lo, hi, like):
            return sgd(sgd.Options(), tensors(), lo, hi, like)

        setup = Setup(comm, N, np.dtype(dtype), np, optimizer, None, None, tensors())
        strategy = STRATEGIES["adasum"](setup, STRATEGIES["adasum"].Options())
        params, grads = strategy.allocate()
        grads[...] = gradients[comm.rank]
        strategy.step(Step(1, 1, comm.size, 1.0))
        return -params

    return run_ranks(len(gradients), body)


def written_out(gradients: list[np.ndarray]) -> np.ndarray:
    def pair(a, b):
        c = np.empty_like(a)
        for p in tensors():
            part = slice(p.lo, p.hi)
            x, y = a[part], b[part]
            c[part] = (1 - x @ y / (2 * (x @ x))) * x + (1 - x @ y / (2 * (y @ y))) * y
        return c

    tree = 1 << len(gradients).bit_length() - 1
    held = [
        pair(g, gradients[tree + i]) if tree + i < len(gradients) else g
        for i, g in enumerate(gradients[:tree])
    ]
    while len(held) > 1:
        held = [pair(a, b) for a, b in zip(held[::2], held[1::2], strict=True)]
    return held[0]


def draw(ranks: int, seed=0) -> list[np.ndarray]:
    return list(np.random.default_rng([ranks, seed]).normal(size=(ranks, N)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 7, 8])
def test_the_definition(ranks):
    """For two ranks this is the closed form itself; one rank's gradient is taken as it is."""
    gradients = draw(ranks)
    results = adasum(gradients)
    assert len({r.tobytes() for r in results}) == 1
    np.testing.assert_allclose(results[0], written_out(gradients), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_orthogonal_gradients_are_added(ranks):
    gradients = draw(ranks)
    for r, g in enumerate(gradients):
        g[np.arange(N) % ranks != r] = 0  # no two ranks have an element in common
    assert (adasum(gradients)[0] == sum(gradients)).all()


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_parallel_gradients_are_averaged(ranks):
    g, lengths = draw(1)[0], np.random.default_rng(1).uniform(0.1, 5, ranks)
    np.testing.assert_allclose(adasum([s * g for s in lengths])[0], lengths.mean() * g, rtol=1e-12)


def test_tensors_are_judged_each_by_itself():
    a, b = draw(2)
    first, rest = slice(0, tensors()[0].hi), slice(tensors()[0].hi, N)
    b[first], b[rest][::2], a[rest][1::2] = a[first], 0, 0
    result = adasum([a, b])[0]
    assert (result[first] == a[first]).all() and (result[rest] == (a + b)[rest]).all()


@pytest.mark.parametrize("busy", range(5))
def test_a_gradient_of_zeros_is_neutral(busy):
    gradients = [g if r == busy else np.zeros(N) for r, g in enumerate(draw(5))]
    assert (adasum(gradients)[0] == gradients[busy]).all()
    assert not adasum([np.zeros(N)] * 3)[0].any()


def test_small_float32_gradients_do_not_vanish():
    """|g|² of 1e-25 is none in float32."""
    g = (1e-25 * draw(1)[0]).astype(np.float32)
    np.testing.assert_allclose(adasum([g, g], np.float32)[0], g, rtol=1e-6)


def test_every_rank_s_gradient_is_the_mean_over_its_own_samples():
    """Ranks that hold the same samples in different numbers agree, so that the step is that of one of them.

    However many they work on at a time.
    """

    def body(comm):
        run = Run(comm, "adasum", 0)
        step = Step(1, 4 if comm.rank else 8, 12, run.lr)
        samples = np.tile(np.arange(4), step.samples // 4)
        cuts = [3, 5] if comm.size > comm.rank + 1 else ()
        run.model.gradients(run.x[samples], run.y[samples], run.strategy.scale(step), cuts=cuts)
        run.strategy.step(step)
        return run.merged()

    assert relative(run_ranks(2, body)[0], run_ranks(1, body)[0]) < 1e-13


def test_one_rank_takes_plain_steps():
    one, other = (
        run_ranks(1, lambda comm, s=s: Run(comm, s, 0).steps(10).merged())[0] for s in ("adasum", "allreduce")
    )
    assert (one == other).all()
