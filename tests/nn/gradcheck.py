"""One directional finite-difference check for any layer, loss or model, in float64."""

import numpy as np

from mpidp.nn.layer import Arena


def slope(f, h):
    """f'(0) by the five-point stencil, with an error of h⁴: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def close(difference, expected, tolerance):
    assert abs(difference - expected) <= tolerance * max(1.0, abs(expected)), (difference, expected)


def place(layer, shape, dtype=np.float64, seed=0):
    """Give `layer` its own flat vectors with random values and a plan for inputs of `shape`; (params, grads)."""
    rng = np.random.default_rng(seed)
    size = sum(p.size for p in layer.parameters())
    params, grads = rng.normal(size=size).astype(dtype), np.zeros(size, dtype)
    start = 0
    for p in layer.parameters():
        p.lo, p.hi = start, start + p.size
        p.value = p.operand = params[p.lo : p.hi].reshape(p.shape)
        p.grad = grads[p.lo : p.hi].reshape(p.shape)
        start = p.hi
    for inner in layer.layers():
        inner.bind()
    layer.plan(shape, Arena(np, dtype))
    return params, grads


def check_layer(layer, x, seed=0, step=1e-4, tolerance=1e-8):
    """d/dh f(θ + hd) = ⟨∇f, d⟩ for f = Σ c ∘ layer(x), d random in the input and all parameters."""
    rng = np.random.default_rng(seed + 1)
    params, grads = place(layer, x.shape, seed=seed)
    x = x.astype(x.dtype if x.dtype.kind in "iu" else np.float64)
    c = rng.normal(size=layer.forward(x.copy()).shape)
    grads[...] = np.nan  # whatever backward leaves unwritten shows
    dx = layer.backward(c.copy())
    gradient, direction = grads.copy(), rng.normal(size=grads.shape)
    expected = gradient @ direction
    dx_direction = np.zeros(x.shape)
    if dx is not None:
        dx_direction = rng.normal(size=x.shape)
        expected += np.sum(dx * dx_direction)
    start = params.copy()

    def f(h):
        params[...] = start + h * direction
        moved = x + h * dx_direction if dx is not None else x
        return np.sum(c * layer.forward(moved.copy()))

    close(slope(f, step), expected, tolerance)
    params[...] = start
    layer.forward(x.copy())  # twice in a row gives the same: gradients are written, not added
    layer.backward(c.copy())
    np.testing.assert_array_equal(grads, gradient)


def check_loss(loss, z, y, step=1e-4, tolerance=1e-8, seed=0):
    """The loss's gradient along a random direction, and `value` equal to what `value_and_gradient` says."""
    direction = np.random.default_rng(seed).normal(size=z.shape)
    loss.plan(z.shape, Arena(np, np.float64))
    value, dz = loss.value_and_gradient(z.copy(), y, 0.5)
    expected = np.sum(dz * direction)
    close(slope(lambda h: 0.5 * loss.value(z + h * direction, y), step), expected, tolerance)
    assert abs(value - loss.value(z.copy(), y)) <= 1e-12 * max(1.0, abs(value))


def bound(model, seed=0):
    """`model` on fresh private vectors, initialised."""
    model.bind(np.zeros(model.size, model.dtype), np.zeros(model.size, model.dtype))
    model.initialise(seed)
    return model


def check_model(model, x, y, step=1e-5, tolerance=1e-8, seed=0, **options):
    """The whole model's gradient along a random direction of its parameters, scaled as the training loop does."""
    scale = 1 / len(x)
    direction = np.random.default_rng(seed).normal(size=model.size)
    model.grads[...] = np.nan
    model.gradients(x, y, scale, **options)
    expected = model.grads @ direction
    start = model.params.copy()

    def f(h):
        model.params[...] = start + h * direction
        return scale * model.gradients(x, y, scale, **options)

    close(slope(f, step), expected, tolerance)
    model.params[...] = start
