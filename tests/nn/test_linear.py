import numpy as np
import pytest

from mpidp.nn.linear import Linear
from tests.nn.gradcheck import check_layer, place


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradient(shape, bias):
    check_layer(Linear("a", 5, 4, bias=bias), np.random.default_rng(0).normal(size=shape))


def test_formula():
    layer = Linear("a", 5, 4)
    place(layer, (6, 5))
    x = np.random.default_rng(0).normal(size=(6, 5))
    np.testing.assert_allclose(layer.forward(x), x @ layer.weight.value + layer.bias.value, rtol=1e-14)


def test_a_first_layer_leaves_out_its_input_gradient():
    layer = Linear("a", 5, 4)
    layer.input_gradient = False
    place(layer, (6, 5))
    layer.forward(np.ones((6, 5)))
    assert layer.backward(np.ones((6, 4))) is None


def test_wrong_width():
    with pytest.raises(ValueError, match=r"a\.weight: takes 5 columns"):
        place(Linear("a", 5, 4), (6, 7))
