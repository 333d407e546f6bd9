"""Optimizers against their plain forms and PyTorch; any cut of the vector; no allocation."""

import itertools
import tracemalloc

import numpy as np
import pytest

from mpidp.errors import UserError
from mpidp.nn.layer import Parameter, constant
from mpidp.optim import OPTIMIZERS
from mpidp.optim.adamw import AdamW, AdamWOptions, adamw_reference
from mpidp.optim.optimizer import BLOCK, decay_runs
from mpidp.optim.sgd import SGD, SGDOptions, sgd_reference

SHAPES = [(7, 5), (5,), (300, 250), (250,), (1,), (3, 2), (2, 2)]
VARIANTS = {
    "sgd": (SGD, SGDOptions()),
    "sgd-decay": (SGD, SGDOptions(weight_decay=0.01)),
    "momentum": (SGD, SGDOptions(momentum=0.9)),
    "nesterov": (SGD, SGDOptions(momentum=0.9, nesterov=True)),
    "nesterov-decay": (SGD, SGDOptions(momentum=0.8, nesterov=True, weight_decay=0.01)),
    "momentum-decay": (SGD, SGDOptions(momentum=0.8, weight_decay=0.01)),
    "adamw": (AdamW, AdamWOptions()),
    "adamw-other": (AdamW, AdamWOptions(beta1=0.5, beta2=0.999, epsilon=1e-3, weight_decay=0.0)),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def laid_out(shapes=SHAPES) -> list[Parameter]:
    parameters, at = [], 0
    for i, shape in enumerate(shapes):
        parameter = Parameter(f"p{i}", shape, constant(0.0))
        parameter.lo, parameter.hi = at, at + parameter.size
        at = parameter.hi
        parameters.append(parameter)
    return parameters


def problem(dtype, seed=0):
    parameters = laid_out()
    rng = np.random.default_rng(seed)
    size = parameters[-1].hi
    return parameters, rng.normal(size=size).astype(dtype), rng.normal(size=(4, size)).astype(dtype)


def make(variant, parameters, lo, hi, like):
    kind, options = VARIANTS[variant]
    return kind(options, parameters, lo, hi, like)


def run(variant, parameters, start, gradients, cuts, scale=0.7):
    """Parameters and state after all steps, with one optimizer, its slices in another order at every step."""
    p = start.copy()
    optimizer = make(variant, parameters, 0, len(p), p)
    slices = list(itertools.pairwise(cuts))
    for t, g in enumerate(gradients, 1):
        for lo, hi in slices if t % 2 else slices[::-1]:
            optimizer.step(p[lo:hi], g[lo:hi], lo, 0.01 / t, t, scale)
    return p, optimizer.state()


@every_variant
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_equals_the_plain_form(variant, dtype, tolerance, scale):
    parameters, start, gradients = problem(dtype)
    options = VARIANTS[variant][1]
    decay = np.concatenate([np.full(p.size, float(p.decay)) for p in parameters])
    expected, mean, square = start.astype(np.float64), np.zeros(len(start)), np.zeros(len(start))
    p = start.copy()
    optimizer = make(variant, parameters, 0, len(p), p)
    for t, g in enumerate(gradients, 1):
        optimizer.step(p, g, 0, 0.01, t, scale)
        g = scale * g.astype(np.float64)
        if isinstance(options, AdamWOptions):
            adamw_reference(expected, g, mean, square, 0.01, t, options, decay)
        else:
            sgd_reference(expected, g, mean, 0.01, options, decay)
    np.testing.assert_allclose(p, expected, rtol=tolerance, atol=tolerance)
    assert p.dtype == dtype


@every_variant
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_cut_gives_the_same_bits(variant, dtype):
    parameters, start, gradients = problem(dtype)
    size = len(start)
    whole, state = run(variant, parameters, start, gradients, [0, size])
    rng = np.random.default_rng(7)
    for cuts in ([0, 1, 34, 35, 36, 41, BLOCK + 3, size], [0, *sorted(rng.integers(0, size, 9)), size]):
        sliced, sliced_state = run(variant, parameters, start, gradients, cuts)
        assert whole.tobytes() == sliced.tobytes()
        assert {k: v.tobytes() for k, v in state.items()} == {k: v.tobytes() for k, v in sliced_state.items()}


@every_variant
def test_owners_of_parts_agree_with_one_owner_of_all(variant):
    parameters, start, gradients = problem(np.float32)
    whole, state = run(variant, parameters, start, gradients, [0, len(start)], scale=1.0)
    p = start.copy()
    cuts = [0, 13, 13, 40_001, len(start)]
    owners = [make(variant, parameters, lo, hi, p) for lo, hi in itertools.pairwise(cuts)]
    for t, g in enumerate(gradients, 1):
        for o in owners:
            o.step(p[o.lo : o.hi], g[o.lo : o.hi], o.lo, 0.01 / t, t)
    assert whole.tobytes() == p.tobytes()
    for name, array in state.items():
        assert array.tobytes() == b"".join(o.state()[name].tobytes() for o in owners)


@every_variant
def test_step_allocates_nothing_and_leaves_the_gradient(variant):
    parameters, p, gradients = problem(np.float32)
    optimizer = make(variant, parameters, 0, len(p), p)
    g, before = gradients[0], gradients[0].copy()
    optimizer.step(p, g, 0, 0.01, 1, 0.5)
    tracemalloc.start()
    optimizer.step(p, g, 0, 0.01, 2, 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000  # views and floats; the shortest temporary block would be 28 kB
    assert g.tobytes() == before.tobytes()


@every_variant
def test_a_saved_state_goes_on_with_the_same_bits(variant):
    parameters, start, gradients = problem(np.float32)
    whole, _ = run(variant, parameters, start, gradients, [0, len(start)])
    p = start.copy()
    optimizer = make(variant, parameters, 0, len(p), p)
    for t, g in enumerate(gradients, 1):
        optimizer.step(p, g, 0, 0.01 / t, t, 0.7)
        saved = {name: array.copy() for name, array in optimizer.state().items()}
        optimizer = make(variant, parameters, 0, len(p), p)
        optimizer.load_state(saved)
    assert whole.tobytes() == p.tobytes()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("adamw")] + ["adamw"])
def test_equals_pytorch(variant):
    torch = pytest.importorskip("torch")
    parameters, start, gradients = problem(np.float64)
    options = VARIANTS[variant][1]
    tensors = [torch.tensor(start[p.lo : p.hi].reshape(p.shape), requires_grad=True) for p in parameters]
    groups = [
        {"params": [x], "weight_decay": options.weight_decay * p.decay}
        for x, p in zip(tensors, parameters, strict=True)
    ]
    if isinstance(options, AdamWOptions):
        theirs = torch.optim.AdamW(groups, lr=0.01, betas=(options.beta1, options.beta2), eps=options.epsilon)
    else:
        theirs = torch.optim.SGD(groups, lr=0.01, momentum=options.momentum, nesterov=options.nesterov)
    p = start.copy()
    optimizer = make(variant, parameters, 0, len(p), p)
    for t, g in enumerate(gradients, 1):
        for x, parameter in zip(tensors, parameters, strict=True):
            x.grad = torch.tensor(g[parameter.lo : parameter.hi].reshape(parameter.shape))
        theirs.step()
        optimizer.step(p, g, 0, 0.01, t)
    expected = np.concatenate([x.detach().numpy().ravel() for x in tensors])
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["adamw", "momentum", "nesterov"])
def test_state_without_gradient_fades_to_zero_not_into_denormals(variant):
    p = np.ones(6, np.float32)
    optimizer = make(variant, laid_out([(6,)]), 0, 6, p)
    g = np.array([1, -1, 1e-3, 1e-12, 0, 3], np.float32)
    for t in range(1, 2501):
        optimizer.step(p, g, 0, 1e-3, t)
        g[:5] = 0
        for array in optimizer.state().values():
            assert not ((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny)).any()
    for array in optimizer.state().values():
        np.testing.assert_array_equal(array[:5], 0)
        assert array[5] > 2.9


def test_first_adamw_step_by_hand():
    # m̂ = g and v̂ = g² at t = 1, so each element moves by lr·g / (|g| + ε), after losing lr·decay of itself.
    parameters = laid_out([(1, 2), (1,)])
    p, g = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.25, 4.0])
    AdamW(AdamWOptions(epsilon=0.5, weight_decay=0.1), parameters, 0, 3, p).step(p, g, 0, 0.1, 1)
    expected = [0.99 - 0.1 * 0.5 / 1.0, 2 * 0.99 + 0.1 * 0.25 / 0.75, 3 - 0.1 * 4 / 4.5]
    np.testing.assert_allclose(p, expected, rtol=1e-14)


def test_decay_runs_join_neighbours_and_skip_vectors():
    assert decay_runs(laid_out([(2, 2), (3,), (2, 3), (2, 2), (4,)]), 1, 16) == [(1, 4), (7, 16)]
    assert decay_runs(laid_out([(3,), (2,)]), 0, 5) == []


def test_nesterov_needs_momentum():
    with pytest.raises(UserError, match="momentum above 0"):
        SGD(SGDOptions(nesterov=True), laid_out(), 0, 10, np.zeros(10))


def test_state_of_another_optimizer_or_length_is_refused():
    like = np.zeros(10)
    adamw = AdamW(AdamWOptions(), laid_out(), 0, 10, like)
    with pytest.raises(UserError, match="resume with the optimizer"):
        adamw.load_state(SGD(SGDOptions(momentum=0.9), laid_out(), 0, 10, like).state())
    with pytest.raises(UserError, match="resume with the model"):
        adamw.load_state(AdamW(AdamWOptions(), laid_out(), 0, 9, like).state())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_a_parabola(name):
    kind = OPTIMIZERS[name]
    p = np.array([5.0, -3.0])
    optimizer = kind(kind.Options(), laid_out([(2,)]), 0, 2, p)
    for t in range(1, 401):
        optimizer.step(p, p, 0, 0.05, t)
    assert np.abs(p).max() < 0.05
