"""Mean squared error and the logistic loss."""

import numpy as np
import pytest

from mpidp.nn.layer import Arena
from mpidp.nn.logistic import LogisticLoss
from mpidp.nn.squared_error import MeanSquaredError
from tests.nn.gradcheck import check_loss

rng = np.random.default_rng(0)


def planned(loss, z):
    loss.plan(z.shape, Arena(np, z.dtype))
    return loss


@pytest.mark.parametrize("shape", [(7, 1), (5, 3)])
def test_squared_error_gradient(shape):
    check_loss(MeanSquaredError(), rng.normal(size=shape), rng.normal(size=shape))


def test_squared_error_by_hand():
    z, y = np.array([[1.0, 2.0], [0.0, 5.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    loss, dz = planned(MeanSquaredError(), z).value_and_gradient(z, y, 0.5)
    assert loss == (1 + 4) / 2 + 16 / 2
    np.testing.assert_array_equal(dz, [[0.5, 1.0], [0.0, 2.0]])
    assert MeanSquaredError().correct(z, y) is None


def test_logistic_gradient():
    check_loss(LogisticLoss(), 3 * rng.normal(size=(9, 1)), rng.integers(0, 2, 9).astype(np.int32))


def test_logistic_by_hand():
    z, y = np.array([[0.0], [np.log(3.0)], [np.log(3.0)]]), np.array([1, 1, 0], np.int32)
    loss, dz = planned(LogisticLoss(), z).value_and_gradient(z, y, 2.0)
    assert loss == pytest.approx(np.log(2) + np.log(4 / 3) + np.log(4))
    np.testing.assert_allclose(dz.ravel(), [-1.0, -0.5, 1.5], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logistic_overflows_for_no_logit(dtype):
    z, y = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype), np.array([1, 0, 0, 1], np.int32)
    with np.errstate(over="raise", invalid="raise"):
        loss, dz = planned(LogisticLoss(), z).value_and_gradient(z, y, 1.0)
    assert loss == 2e4
    np.testing.assert_array_equal(dz.ravel(), [0, 0, 1, -1])


def test_logistic_counts_the_right_ones():
    z, y = np.array([[2.0], [-1.0], [0.5], [-3.0]]), np.array([1, 1, 0, 0], np.int32)
    assert LogisticLoss().correct(z, y) == 2


@pytest.mark.parametrize("kind", ["squared", "logistic"])
def test_losses_equal_pytorch(kind):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    z = rng.normal(size=(6, 1 if kind == "logistic" else 4))
    y = rng.integers(0, 2, 6).astype(np.int32) if kind == "logistic" else rng.normal(size=z.shape)
    tz = torch.tensor(z, requires_grad=True)
    if kind == "logistic":
        loss, total = (
            LogisticLoss(),
            F.binary_cross_entropy_with_logits(tz[:, 0], torch.tensor(y, dtype=tz.dtype)),
        )
    else:
        loss, total = MeanSquaredError(), F.mse_loss(tz, torch.tensor(y))
    total.backward()
    value, dz = planned(loss, z).value_and_gradient(z.copy(), y, 1 / 6)
    assert value / 6 == pytest.approx(total.item(), rel=1e-12)
    np.testing.assert_allclose(dz, tz.grad.numpy(), rtol=1e-12, atol=1e-15)
