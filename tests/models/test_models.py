"""Every model of the registry: builds, has right gradients, learns; and the mistakes it refuses."""

import numpy as np
import pytest

from mpidp.data.schema import Schema
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.optim import OPTIMIZERS
from tests.nn.gradcheck import bound, check_model

SMALL = {  # options that make it small, and data that fits
    "linear": ({}, Schema("values", (6,), 2)),
    "logistic": ({}, Schema("classes", (7,), 2)),
    "mlp": ({"hidden": "9,8", "dropout": 0.25, "activation": "gelu"}, Schema("classes", (4, 3, 2), 5)),
    "cnn": ({"channels": "3,4", "hidden": "6", "dropout": 0.25}, Schema("classes", (8, 9, 2), 5)),
    "gpt": ({"layers": 2, "heads": 2, "width": 8, "context": 6}, Schema("tokens", (6,), 11)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name, schema=None, dtype=np.float64, **options):
    spec = MODELS[name]
    small, fitting = SMALL[name]
    return spec.build(spec.Options(**(small | options)), schema or fitting, dtype)


def batch(schema, count=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    if schema.kind == "tokens":
        text = rng.integers(0, schema.outputs, (count, schema.inputs[0] + 1)).astype(np.int32)
        return text[:, :-1], text[:, 1:]
    x = rng.normal(size=(count, *schema.inputs)).astype(dtype)
    if schema.kind == "classes":
        return x, rng.integers(0, schema.outputs, count).astype(np.int32)
    return x, rng.normal(size=(count, schema.outputs)).astype(dtype)


@every_model
def test_gradient(name):
    model = bound(build(name))
    model.params += (
        np.random.default_rng(5).normal(size=model.size) * 0.1
    )  # away from zero biases and from ties
    check_model(model, *batch(SMALL[name][1]), key=(3, 4))


@pytest.mark.parametrize(
    "name, schema", [("mlp", Schema("values", (5,), 2)), ("cnn", Schema("values", (4, 4, 1), 2))]
)
def test_gradient_on_values(name, schema):
    model = bound(build(name, schema, dropout=0.0))
    check_model(model, *batch(schema))


@every_model
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_lower_the_loss(name, optimizer):
    model = bound(build(name, dtype=np.float32))
    x, y = batch(SMALL[name][1], count=8, dtype=np.float32)
    kind = OPTIMIZERS[optimizer]
    rule = kind(kind.Options(), model.parameters, 0, model.size, model.params)
    losses = [model.evaluate(x, y)[0]]
    for t in range(1, 6):
        model.gradients(x, y, 1 / len(x), key=(0, t))
        rule.step(model.params, model.grads, 0, 0.01 if optimizer == "adamw" else 0.05, t)
        losses.append(model.evaluate(x, y)[0])
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()


@every_model
def test_parts_of_a_batch_add_up_to_it(name):
    model = bound(build(name))
    x, y = batch(SMALL[name][1])
    loss = model.gradients(x, y, 0.5, key=(1, 2))
    whole, total, sums = model.grads.copy(), 0.0, 0.0
    for part in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 6)):
        total += model.gradients(x[part], y[part], 0.5, key=(1, 2), slots=np.arange(6)[part])
        sums = sums + model.grads
    assert total == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(sums, whole, rtol=1e-9, atol=1e-12)


@every_model
def test_gradients_become_ready_from_tail_to_head(name):
    model = bound(build(name))
    seen = []
    model.gradients(*batch(SMALL[name][1]), 1.0, lambda lo, hi: seen.append((lo, hi)))
    assert seen[0][1] == model.size and seen[-1][0] == 0
    assert [lo for lo, _ in seen[:-1]] == [hi for _, hi in seen[1:]]


@every_model
def test_names_are_stable_and_vectors_do_not_decay(name):
    first, second = build(name), build(name)
    names = [p.name for p in first.parameters]
    assert names == [p.name for p in second.parameters] and len(set(names)) == len(names)
    assert all(p.decay == (len(p.shape) > 1) for p in first.parameters)


@every_model
def test_defaults_name_options_of_the_run(name):
    assert {"data", "optimizer", "lr", "schedule", "batch-size"} <= set(MODELS[name].DEFAULTS)
    assert MODELS[name].DEFAULTS["optimizer"] in OPTIMIZERS


WRONG = [
    ("linear", Schema("classes", (4,), 3), {},
     "linear learns from samples with real targets, but this data is samples with a class"),
    ("logistic", Schema("values", (4,), 1), {},
     "logistic learns from samples with a class each, but this data is samples with real"),
    ("logistic", Schema("classes", (4,), 3), {}, "tells 2 classes apart, but this data has 3"),
    ("mlp", Schema("tokens", (16,), 256), {}, "--model mlp learns from .* but this data is text"),
    ("cnn", Schema("tokens", (16,), 256), {}, "--model cnn learns from .* but this data is text"),
    ("cnn", Schema("classes", (30,), 2), {}, "takes images, but a sample of this data is 30 numbers"),
    ("cnn", Schema("classes", (8, 8, 1), 10), {"channels": "2,2,2,2"}, "8 x 8 cannot be halved 4 times"),
    ("mlp", Schema("classes", (30,), 2), {"hidden": "64,x"}, "--hidden 64,x: must be whole numbers above 0"),
    ("cnn", Schema("classes", (8, 8, 1), 2), {"channels": "16,0"}, "--channels 16,0: must be whole numbers above 0"),
    ("gpt", Schema("classes", (30,), 2), {}, "learns from text"),
]  # fmt: skip


@pytest.mark.parametrize("name, schema, options, message", WRONG)
def test_data_that_does_not_fit(name, schema, options, message):
    with pytest.raises(UserError, match=message):
        build(name, schema, **options)


def test_no_hidden_layers():
    schema = Schema("classes", (8, 8, 1), 10)
    assert [p.name for p in build("mlp", schema, hidden="").parameters] == [
        "layers.0.weight",
        "layers.0.bias",
    ]
    assert "dense.1.weight" not in [p.name for p in build("cnn", schema, hidden=" ").parameters]
