"""What the defaults of the small models reach on their default data, in one process."""

import numpy as np
import pytest

from mpidp.data import SOURCES, Request, load
from mpidp.models import MODELS
from mpidp.optim import OPTIMIZERS, SCHEDULES


def train(name, seed=0, **changes):
    """A plain loop with the model's DEFAULTS; (model, data)."""
    spec = MODELS[name]
    settings = spec.DEFAULTS | changes
    source = settings["data"]
    data = load(source, SOURCES[source].Options(), Request(seed=seed, validation_fraction=0.2))
    mine = {key: settings[key] for key in ("dropout",) if key in settings}
    model = spec.build(spec.Options(**mine), data.schema, np.float32)
    model.bind(np.zeros(model.size, np.float32), np.zeros(model.size, np.float32))
    model.initialise(seed)
    kind, schedule = OPTIMIZERS[settings["optimizer"]], SCHEDULES[settings["schedule"]]
    optimizer = kind(kind.Options(), model.parameters, 0, model.size, model.params)
    count, size = len(data.train), settings["batch-size"]
    per_epoch = -(-count // size)
    lr = schedule(schedule.Options(), settings["lr"], per_epoch * settings["epochs"])
    rng = np.random.default_rng(seed)
    t = 0
    for _ in range(settings["epochs"]):
        order = rng.permutation(count)
        for start in range(0, count, size):
            t += 1
            indices = order[start : start + size]
            model.gradients(*data.train.batch(indices), 1 / len(indices), key=(seed, t))
            optimizer.step(model.params, model.grads, 0, lr(t), t)
    return model, data


def accuracy(name, **changes):
    model, data = train(name, **changes)
    return model.evaluate(*data.validation.batch(np.arange(len(data.validation))))[1] / len(data.validation)


def test_linear_regression_reaches_the_least_squares_solution():
    model, data = train("linear")
    exact = np.concatenate([data.truth["weight"].ravel(), data.truth["bias"]])
    assert np.linalg.norm(model.params - exact) < 1e-4 * np.linalg.norm(exact)
    assert [p.name for p in model.parameters] == list(data.truth)


def test_logistic_regression_tells_tumours_apart():
    pytest.importorskip("sklearn")
    assert accuracy("logistic") > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_mlp_reads_digits(seed):
    pytest.importorskip("sklearn")
    assert accuracy("mlp", seed=seed) >= 0.97


def test_cnn_reads_digits():
    pytest.importorskip("sklearn")
    assert accuracy("cnn") >= 0.98
