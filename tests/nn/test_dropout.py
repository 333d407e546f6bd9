import numpy as np
import pytest

from mpidp.nn.cross_entropy import SoftmaxCrossEntropy
from mpidp.nn.dropout import Dropout, sample_keys
from mpidp.nn.linear import Linear
from mpidp.nn.model import Model
from tests.nn.gradcheck import check_layer, place


def masks(slots, key=(0, 0), index=0, count=50):
    layer = Dropout(0.5)
    layer.index = index
    place(layer, (len(slots), count))
    layer.draw(key, slots)
    return layer.forward(np.ones((len(slots), count))).copy()


class Drawn(Dropout):
    """Dropout whose masks are chosen as soon as it is planned."""

    def plan(self, shape, arena):
        out = super().plan(shape, arena)
        self.draw((1, 2), range(shape[0]))
        return out


def test_gradient():
    layer = Drawn(0.3)
    check_layer(layer, np.random.default_rng(0).normal(size=(4, 3, 5)))


def test_a_samples_mask_does_not_depend_on_its_neighbours():
    whole = masks([0, 1, 2, 3, 4])
    np.testing.assert_array_equal(masks([3, 1]), whole[[3, 1]])
    np.testing.assert_array_equal(masks([2**40 + 5, 4])[1], whole[4])


def test_everything_in_the_key_counts():
    one = masks([5])
    for other in (masks([6]), masks([5], (1, 0)), masks([5], (0, 1)), masks([5], index=1)):
        assert not np.array_equal(one, other)
    assert (
        len({*sample_keys(1, 2, 3, range(10_000)).tolist(), *sample_keys(1, 3, 2, range(10_000)).tolist()})
        == 20_000
    )


def test_share_and_scale():
    y = masks(range(100), count=1000)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert abs(y.mean() - 1) < 0.01  # 3 standard deviations of 100 000 draws


def test_outside_training_and_at_p_0_it_is_the_identity():
    x = np.random.default_rng(0).normal(size=(3, 4))
    for p, training in ((0.5, False), (0.0, True)):
        layer = Dropout(p)
        layer.training = training
        place(layer, x.shape)
        assert layer.forward(x) is x


@pytest.mark.parametrize("micro", [None, 2])
def test_a_model_numbers_its_layers_and_passes_the_key_on(micro):
    def gradient(step, slots):
        model = Model(
            [Linear("a", 3, 4), Dropout(0.5), Linear("b", 4, 4), Dropout(0.5), Linear("c", 4, 2)], loss
        )
        model.bind(np.ones(model.size, np.float32), np.zeros(model.size, np.float32))
        assert [layer.index for layer in model.layers if isinstance(layer, Dropout)] == [0, 1]
        model.gradients(x, y, 1.0, key=(0, step), slots=slots, cuts=range(micro, 5, micro) if micro else ())
        return model.grads

    loss, x, y = SoftmaxCrossEntropy(), np.ones((5, 3), np.float32), np.zeros(5, np.int32)
    np.testing.assert_array_equal(gradient(1, range(5)), gradient(1, range(5)))
    assert not np.array_equal(gradient(1, range(5)), gradient(2, range(5)))
    assert not np.array_equal(gradient(1, range(5)), gradient(1, range(1, 6)))
