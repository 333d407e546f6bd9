"""Every model in the registry: losses, gradients, scores and steps on a device are those of the host."""

import numpy as np
import pytest

from mpidp.arrays import to_host
from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.optim import OPTIMIZERS

TOKENS = Schema("tokens", (8,), 64)
CASES = {
    "linear": [({}, Schema("values", (20,), 1))],
    "logistic": [({}, Schema("classes", (20,), 2))],
    "mlp": [({"hidden": "8,8"}, Schema("classes", (20,), 3))],
    "cnn": [({}, Schema("classes", (8, 8, 1), 3))],
    "gpt": [
        ({"layers": 2, "heads": 2, "width": 16, "context": 8, "dropout": dropout}, TOKENS)
        for dropout in (0.0, 0.2)
    ],
}
LIMIT = {np.float32: 2e-4, np.float64: 1e-11}


def test_every_model_has_a_case():
    assert CASES.keys() == MODELS.keys()


def samples(schema: Schema, dtype, count: int):
    rng = np.random.default_rng(0)
    if schema.kind == "tokens":
        return rng.integers(0, schema.outputs, (2, count, *schema.inputs)).astype(np.int32)
    x = rng.normal(size=(count, *schema.inputs)).astype(dtype)
    if schema.kind == "values":
        return x, rng.normal(size=(count, schema.outputs)).astype(dtype)
    return x, rng.integers(0, schema.outputs, count).astype(np.int32)


def trained(xp, name, options, schema, dtype):
    """What three steps with batches of different lengths leave: losses, score, gradients, parameters."""
    model = MODELS[name].build(MODELS[name].Options(**options), schema, np.dtype(dtype))
    params, grads = xp.zeros(model.size, dtype), xp.zeros(model.size, dtype)
    model.bind(params, grads)
    model.initialise(0)
    adamw = OPTIMIZERS["adamw"]
    optimizer = adamw(adamw.Options(), model.parameters, 0, model.size, params)
    announced, losses = [], []
    for t, count in enumerate((3, 2, 3), 1):
        x, y = samples(schema, dtype, count)
        announced.append([])
        losses.append(
            model.gradients(x, y, 1 / count, lambda lo, hi: announced[-1].append((lo, hi)), key=(0, t))
        )
        gradients = grads.copy()
        optimizer.step(params, grads, 0, 1e-3, t, 1.0)
    host = [a if xp is np else a.get() for a in (params, gradients)]
    return losses, model.evaluate(*samples(schema, dtype, 5)), announced, *host


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, options, schema", [(name, *case) for name in CASES for case in CASES[name]])
def test_model_is_that_of_the_host(cupy, name, options, schema, dtype):
    host, device = (trained(xp, name, options, schema, dtype) for xp in (np, cupy))
    for theirs, ours in zip(host[0], device[0], strict=True):
        assert float(to_host(ours)) == pytest.approx(float(theirs), rel=LIMIT[dtype])
    assert device[1][0] == pytest.approx(host[1][0], rel=LIMIT[dtype])
    assert device[1][1] == host[1][1]
    assert device[2] == host[2]
    for ours, theirs in zip(device[3:], host[3:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=LIMIT[dtype] * np.abs(theirs).max())
