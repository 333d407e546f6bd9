"""One finite-difference check a layer, and what a layer promises besides."""

import numpy as np
import pytest

from mpidp.nn.activations import GELU
from mpidp.nn.attention import CausalSelfAttention
from mpidp.nn.cross_entropy import SoftmaxCrossEntropy
from mpidp.nn.embedding import Embedding, TiedOutput
from mpidp.nn.kernels import plain
from mpidp.nn.layer import Arena, Parameter, normal
from mpidp.nn.norm import LayerNorm
from tests.nn.gradcheck import check_layer, check_loss, place

rng = np.random.default_rng(0)


def test_layer_norm():
    check_layer(LayerNorm("n", 24), rng.normal(size=(3, 7, 24)))


def test_gelu():
    check_layer(GELU(), 3 * rng.normal(size=(5, 11)))


def test_embedding():
    check_layer(Embedding(11, 9, 6), rng.integers(0, 11, (4, 7)).astype(np.int32))


def test_embedding_beyond_context():
    with pytest.raises(ValueError, match="sequences of 10 tokens, but the model's context is 9"):
        place(Embedding(11, 9, 6), (4, 10))


def test_embedding_beyond_vocabulary():
    layer = Embedding(11, 9, 6)
    place(layer, (1, 2))
    for bad in (11, -1):
        with pytest.raises(IndexError, match="the table has 11 rows"):
            layer.forward(np.array([[0, bad]], np.int32))


def test_tied_embedding_adds_to_what_is_there():
    layer, ids = Embedding(11, 9, 6, tied=True), np.array([[3, 3, 1]], np.int32)
    place(layer, ids.shape)
    layer.forward(ids)
    layer.wte.grad[...] = 2.0
    layer.backward(np.ones((1, 3, 6)))
    np.testing.assert_array_equal(layer.wte.grad[:, 0], [2, 3, 2, 4] + [2] * 7)


def test_tied_output():
    check_layer(TiedOutput(Parameter("wte", (13, 6), normal(1.0))), rng.normal(size=(2, 5, 6)))


@pytest.mark.parametrize("tokens", [1, 5, 70, 130])
def test_attention(tokens):
    check_layer(CausalSelfAttention("a", 12, 3), 0.3 * rng.normal(size=(2, tokens, 12)))


def test_attention_is_causal():
    layer = CausalSelfAttention("a", 12, 3)
    place(layer, (1, 80, 12))
    x = rng.normal(size=(1, 80, 12))
    before = layer.forward(x).copy()
    x[:, 66:] += 1
    after = layer.forward(x)
    np.testing.assert_array_equal(before[:, :66], after[:, :66])
    assert np.abs(before[:, 66:] - after[:, 66:]).min() > 0


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_cross_entropy(shape):
    z, y = 2 * rng.normal(size=shape), rng.integers(0, 5, shape[:-1]).astype(np.int32)
    check_loss(SoftmaxCrossEntropy(), z, y)


def test_cross_entropy_of_text_is_the_mean_over_tokens():
    z, y = rng.normal(size=(2, 3, 5)), rng.integers(0, 5, (2, 3)).astype(np.int32)
    loss = SoftmaxCrossEntropy()
    loss.plan(z.shape, Arena(np, np.float64))
    losses, _ = plain.softmax_cross_entropy(z.reshape(6, 5), y.reshape(6))
    assert loss.correct(z, y) == pytest.approx((z.argmax(-1) == y).sum() / 3)
    assert loss.value(z, y) == pytest.approx(losses.sum() / 3, rel=1e-13)
