import numpy as np
import pytest

from mpidp.nn.conv2d import Conv2d
from mpidp.nn.layer import Arena
from tests.nn.gradcheck import check_layer, place

CASES = [  # batch, height, width, channels in, out, kernel, stride, padding
    (2, 5, 6, 3, 4, 3, 1, 0),
    (2, 5, 6, 3, 4, 3, 1, 1),
    (1, 7, 5, 1, 2, 3, 1, 2),
    (3, 8, 9, 2, 3, 3, 2, 1),
    (2, 9, 7, 2, 3, 2, 3, 0),
    (2, 4, 4, 9, 5, 1, 1, 0),
    (2, 6, 6, 10, 3, 5, 2, 2),
    (40, 12, 12, 9, 3, 3, 1, 1),  # several blocks of samples, the last one short
]
every_case = pytest.mark.parametrize("case", CASES)


def layer_and_input(case, **options):
    count, height, width, inputs, outputs, kernel, stride, padding = case
    layer = Conv2d("c", inputs, outputs, kernel, stride, padding, **options)
    return layer, np.random.default_rng(0).normal(size=(count, height, width, inputs))


def by_loops(x, weight, bias, stride, padding):
    """The formula, one window after another."""
    k = weight.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    y = np.empty((len(x), rows, columns, weight.shape[-1]))
    for r in range(rows):
        for c in range(columns):
            window = x[:, r * stride : r * stride + k, c * stride : c * stride + k]
            y[:, r, c] = np.einsum("bijk,ijko->bo", window, weight) + bias
    return y


@every_case
def test_gradient(case):
    check_layer(*layer_and_input(case))


def test_gradient_without_bias():
    check_layer(*layer_and_input(CASES[1], bias=False))


@pytest.mark.parametrize(
    "case, pool", [*((case, 2) for case in CASES), (CASES[1], 3), (CASES[3], 3), (CASES[7], 5)]
)
def test_pooled_order(case, pool):
    layer, x = layer_and_input(case, pool=pool)
    check_layer(layer, x)
    y = layer.forward(x)
    plain, _ = layer_and_input(case)
    place(plain, x.shape)
    plain.weight.value[...], plain.bias.value[...] = layer.weight.value, layer.bias.value
    expected = plain.forward(x)
    rows, columns = expected.shape[1] // pool, expected.shape[2] // pool
    assert y.shape == (pool * pool, len(x), rows, columns, expected.shape[-1])
    for place_number, got in enumerate(y):
        i, j = divmod(place_number, pool)
        np.testing.assert_allclose(
            got, expected[:, i : rows * pool : pool, j : columns * pool : pool], rtol=1e-12, atol=1e-12
        )


@every_case
def test_formula(case):
    layer, x = layer_and_input(case)
    place(layer, x.shape)
    expected = by_loops(x, layer.weight.value, layer.bias.value, layer.stride, layer.padding)
    np.testing.assert_allclose(layer.forward(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.plan(x.shape, Arena(np, np.float64)) == expected.shape


def test_by_hand():
    # [[1, 2], [3, 4]] correlated with [[1, 10], [100, 1000]], no flip: 1 + 20 + 300 + 4000.
    layer = Conv2d("c", 1, 1, kernel=2)
    place(layer, (1, 2, 2, 1))
    layer.weight.value[...] = np.array([[1, 10], [100, 1000]]).reshape(2, 2, 1, 1)
    layer.bias.value[...] = 0.5
    x = np.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(layer.forward(x), [[[[4321.5]]]])
    np.testing.assert_array_equal(layer.backward(np.ones((1, 1, 1, 1))).ravel(), [1, 10, 100, 1000])
    np.testing.assert_array_equal(layer.weight.grad.ravel(), [1, 2, 3, 4])


@every_case
def test_equals_pytorch(case):
    torch = pytest.importorskip("torch")
    layer, x = layer_and_input(case)
    place(layer, x.shape)
    y = layer.forward(x)
    dy = np.random.default_rng(1).normal(size=y.shape)
    tx = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    weight = torch.tensor(layer.weight.value.transpose(3, 2, 0, 1).copy(), requires_grad=True)
    bias = torch.tensor(layer.bias.value.copy(), requires_grad=True)
    ty = torch.nn.functional.conv2d(tx, weight, bias, layer.stride, layer.padding)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(y, ty.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        layer.backward(dy), tx.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(
        layer.weight.grad, weight.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(layer.bias.grad, bias.grad.numpy(), rtol=1e-10)


def test_a_first_layer_leaves_out_its_input_gradient():
    layer, x = layer_and_input(CASES[0])
    layer.input_gradient = False
    place(layer, x.shape)
    assert layer.backward(np.ones_like(layer.forward(x))) is None
    assert np.abs(layer.weight.grad).min() > 0


def test_wrong_images():
    with pytest.raises(ValueError, match=r"c\.weight: needs images of 3 channels and at least 3 x 3"):
        place(Conv2d("c", 3, 4), (2, 5, 5, 1))
    with pytest.raises(ValueError, match="at least 3 x 3"):
        place(Conv2d("c", 3, 4), (2, 2, 5, 3))
    with pytest.raises(ValueError, match="at least 5 x 5"):
        place(Conv2d("c", 3, 4, pool=3), (2, 4, 5, 3))
    with pytest.raises(ValueError, match="padding 3 must be"):
        Conv2d("c", 3, 4, padding=3)
