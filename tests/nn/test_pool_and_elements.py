"""Max-pooling, ReLU, bias, flatten."""

import numpy as np
import pytest

from mpidp.nn.bias import Bias
from mpidp.nn.flatten import Flatten
from mpidp.nn.maxpool import MaxPool2d
from mpidp.nn.relu import ReLU
from tests.nn.gradcheck import check_layer, place

rng = np.random.default_rng(0)
POOLS = [(2, (2, 4, 6, 3)), (2, (1, 5, 7, 2)), (3, (2, 7, 9, 4)), (4, (1, 4, 4, 1))]


@pytest.mark.parametrize("size, shape", POOLS)
def test_pool_gradient(size, shape):
    check_layer(MaxPool2d(size), rng.normal(size=shape))


def test_pool_by_hand():
    layer = MaxPool2d(2)
    x = np.array([[1, 5, 2, 0, 9], [3, 4, 7, 2, 9], [9, 9, 9, 9, 9]], float).reshape(1, 3, 5, 1)
    place(layer, x.shape)
    np.testing.assert_array_equal(layer.forward(x).ravel(), [5, 7])
    dx = layer.backward(np.array([10.0, 20.0]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 10, 0, 0, 0], [0, 0, 20, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("size, shape", POOLS)
def test_pool_with_places_first_gives_the_same(size, shape):
    count, height, width, channels = shape
    rows, columns = height // size, width // size
    x, dy = rng.normal(size=shape), rng.normal(size=(count, rows, columns, channels))
    plain, layer = MaxPool2d(size), MaxPool2d(size)
    place(plain, shape)

    def places_first(a):
        a = a[:, : rows * size, : columns * size].reshape(count, rows, size, columns, size, channels)
        return a.transpose(2, 4, 0, 1, 3, 5).reshape(size * size, count, rows, columns, channels)

    place(layer, places_first(x).shape)
    np.testing.assert_array_equal(layer.forward(places_first(x)), plain.forward(x))
    np.testing.assert_array_equal(layer.backward(dy.copy()), places_first(plain.backward(dy.copy())))
    check_layer(MaxPool2d(size), places_first(x))


def test_pool_ties_go_to_the_first_in_reading_order():
    layer = MaxPool2d(2)
    place(layer, (1, 2, 6, 1))
    layer.forward(np.array([[1, 1, 0, 2, 0, 0], [1, 1, 2, 2, 0, 3]], float).reshape(1, 2, 6, 1))
    dx = layer.backward(np.ones((1, 1, 3, 1)))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]])


@pytest.mark.parametrize("size, shape", POOLS)
def test_pool_equals_pytorch_with_many_ties(size, shape):
    torch = pytest.importorskip("torch")
    layer, x = MaxPool2d(size), rng.integers(0, 3, shape).astype(float)
    place(layer, shape)
    y = layer.forward(x).copy()
    dy = rng.normal(size=y.shape)
    tx = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    ty = torch.nn.functional.max_pool2d(tx, size)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_array_equal(y, ty.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(layer.backward(dy), tx.grad.numpy().transpose(0, 2, 3, 1))


def test_pool_outside_training_gives_the_same_maxima():
    layer, x = MaxPool2d(2), rng.normal(size=(2, 6, 6, 3))
    place(layer, x.shape)
    trained = layer.forward(x).copy()
    layer.training = False
    np.testing.assert_array_equal(layer.forward(x), trained)


def test_pool_of_a_wrong_size():
    with pytest.raises(ValueError, match="1 x 1 has nothing to choose from"):
        MaxPool2d(1)
    with pytest.raises(ValueError, match="windows of 3 x 3 do not fit images of shape"):
        place(MaxPool2d(3), (1, 2, 5, 1))


def test_relu_gradient():
    check_layer(ReLU(), rng.normal(size=(4, 5, 3)))


def test_relu_by_hand():
    layer = ReLU()
    place(layer, (1, 4))
    np.testing.assert_array_equal(layer.forward(np.array([[-2.0, 0.0, 3.0, 1e-30]])), [[0, 0, 3, 1e-30]])
    np.testing.assert_array_equal(layer.backward(np.array([[5.0, 6.0, 7.0, 8.0]])), [[0, 0, 7, 8]])


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 4, 3)])
def test_bias(shape):
    layer, x = Bias("b", 3), rng.normal(size=shape)
    check_layer(layer, x)
    np.testing.assert_array_equal(layer.forward(x.copy()), x + layer.bias.value)


def test_flatten():
    layer = Flatten()
    x = rng.normal(size=(2, 3, 4, 5))
    assert layer.plan(x.shape, None) == (2, 60)
    y = layer.forward(x)
    np.testing.assert_array_equal(y[1], x[1].ravel())
    np.testing.assert_array_equal(layer.backward(y), x)
    check_layer(layer, x)
