"""Loss and gradients of the MLP and the CNN against PyTorch's autograd, in float64."""

import numpy as np
import pytest

from mpidp.data.schema import Schema
from mpidp.models import MODELS
from tests.nn.gradcheck import bound

torch = pytest.importorskip("torch")
F = torch.nn.functional


def mlp(x, p, activation):
    x = x.flatten(1)
    for i in range(3):
        x = x @ p[f"layers.{i}.weight"] + p[f"layers.{i}.bias"]
        x = activation(x) if i < 2 else x
    return x


def cnn(x, p, activation):
    x = x.permute(0, 3, 1, 2)
    for i in range(2):
        weight = p[f"conv.{i}.weight"].permute(3, 2, 0, 1)
        x = F.max_pool2d(activation(F.conv2d(x, weight, p[f"conv.{i}.bias"], padding=1)), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = activation(x @ p["dense.0.weight"] + p["dense.0.bias"])
    return x @ p["dense.1.weight"] + p["dense.1.bias"]


def gelu(x):
    return F.gelu(x, approximate="tanh")


@pytest.mark.parametrize("kind", ["classes", "values"])
@pytest.mark.parametrize(
    "name, options, theirs, activation",
    [
        ("mlp", {"hidden": "9,8"}, mlp, F.relu),
        ("mlp", {"hidden": "9,8", "activation": "gelu"}, mlp, gelu),
        ("cnn", {"channels": "3,9", "hidden": "6"}, cnn, F.relu),
    ],
)
def test_same_loss_and_gradients(kind, name, options, theirs, activation):
    spec, rng = MODELS[name], np.random.default_rng(2)
    model = bound(spec.build(spec.Options(**options), Schema(kind, (9, 10, 2), 5), np.float64))
    model.params += 0.1 * rng.normal(size=model.size)
    x = rng.normal(size=(7, 9, 10, 2))
    y = rng.integers(0, 5, 7).astype(np.int32) if kind == "classes" else rng.normal(size=(7, 5))
    tensors = {p.name: torch.tensor(p.value.copy(), requires_grad=True) for p in model.parameters}
    z = theirs(torch.tensor(x), tensors, activation)
    mean = F.cross_entropy(z, torch.tensor(y).long()) if kind == "classes" else F.mse_loss(z, torch.tensor(y))
    mean.backward()
    assert model.gradients(x, y, 1 / 7) / 7 == pytest.approx(mean.item(), rel=1e-12)
    for p in model.parameters:
        np.testing.assert_allclose(
            p.grad, tensors[p.name].grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=p.name
        )
