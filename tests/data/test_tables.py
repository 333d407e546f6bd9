import numpy as np
import pytest

from mpidp.data import Request, Schema, load
from mpidp.data.synthetic import ClassesOptions, RegressionOptions
from mpidp.data.tables import Arrays, table_data
from mpidp.errors import UserError

RNG = np.random.default_rng(0)


def whole(data):
    return [part.batch(np.arange(len(part))) for part in (data.train, data.validation)]


def make(x, y, test=None, request=None, **kwargs):
    return table_data("t", (np.asarray(x), np.asarray(y)), test, request or Request(), **kwargs)


def features(n, f=3):
    return np.arange(n * f, dtype=np.float64).reshape(n, f)


def test_features_are_standardised_by_the_training_part():
    x = RNG.normal(7.0, 3.0, (200, 4)) * [1, 10, 0.01, 1e6]
    data = make(x, RNG.normal(size=200), request=Request(dtype=np.float64))
    (train, _), (validation, _) = whole(data)
    assert np.abs(train.mean(axis=0)).max() < 1e-12 and np.abs(train.std(axis=0) - 1).max() < 1e-12
    assert 1e-3 < np.abs(validation.mean(axis=0)).max() < 1.0  # by the training part's numbers, not its own


def test_columns_that_do_not_vary_are_centred():
    x = np.stack([np.full(50, 0.1), np.zeros(50), np.arange(50)], axis=1)
    (train, _), (validation, _) = whole(make(x, np.arange(50) / 2, request=Request(dtype=np.float64)))
    assert np.abs(train[:, :2]).max() < 1e-15 and np.abs(validation[:, :2]).max() < 1e-15
    assert train[:, 2].std() == pytest.approx(1)


@pytest.mark.parametrize("n, fraction, held_out", [(100, 0.1, 10), (7, 0.2, 1), (4, 0.01, 1), (2, 0.5, 1)])
def test_parts_are_disjoint_and_cover_all_rows(n, fraction, held_out):
    data = make(np.zeros((n, 1)), np.arange(n) + 0.5, request=Request(validation_fraction=fraction))
    (_, train), (_, validation) = whole(data)
    assert len(validation) == held_out
    assert sorted([*train[:, 0], *validation[:, 0]]) == (np.arange(n) + 0.5).tolist()


def test_the_seed_chooses_the_validation_part():
    parts = [
        whole(make(np.zeros((40, 1)), np.arange(40) + 0.5, request=Request(seed=s)))[1][1] for s in (0, 1, 0)
    ]
    assert (parts[0] == parts[2]).all() and not (parts[0] == parts[1]).all()


def test_a_test_part_of_its_own_is_the_validation_part():
    x, y = features(6), np.array([0, 1, 2, 0, 1, 2])
    data = make(x, y, (features(2), np.array([2, 0])))
    assert len(data.train) == 6 and data.validation.labels.tolist() == [2, 0]
    assert data.train.labels.tolist() == y.tolist()


@pytest.mark.parametrize(
    "y, task, schema",
    [
        ([0, 1] * 5, "auto", Schema("classes", (3,), 2)),
        ([0.0, 1.0] * 5, "auto", Schema("classes", (3,), 2)),
        ([True, False] * 5, "auto", Schema("classes", (3,), 2)),
        ([0, 1, 2, 3, 4] * 2, "auto", Schema("classes", (3,), 5)),
        (list(range(10)), "auto", Schema("values", (3,), 1)),
        (list(range(10)), "classes", Schema("classes", (3,), 10)),
        ([0, 1] * 5, "values", Schema("values", (3,), 1)),
        ([0.5, 1.0] * 5, "auto", Schema("values", (3,), 1)),
        ([[0, 1]] * 10, "auto", Schema("values", (3,), 2)),
        ([[0], [1]] * 5, "auto", Schema("classes", (3,), 2)),
    ],
)
def test_the_task(y, task, schema):
    assert make(features(10), y, task=task).schema == schema


def test_many_integer_targets_are_values():
    y = np.arange(404) % 101
    assert make(features(404), y).schema.kind == "values"
    assert make(features(404), y % 100).schema == Schema("classes", (3,), 100)


@pytest.mark.parametrize(
    "shape, inputs",
    [((6,), (1,)), ((6, 4), (4,)), ((6, 4, 5), (4, 5, 1)), ((6, 4, 5, 3), (4, 5, 3))],
)
def test_shapes_of_samples(shape, inputs):
    assert make(RNG.normal(size=shape), np.arange(6) / 2).schema.inputs == inputs


def test_images_of_bytes_become_zero_to_one_and_stay_bytes_in_memory():
    x = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2) * 10 + 25
    x[0, 0, 0], x[1, 0, 0] = 0, 255
    data = make(x, [0, 1] * 3, (x, np.array([0, 1] * 3)))
    assert data.train.x.dtype == np.uint8
    got, _ = data.train.batch(np.arange(6))
    assert got.dtype == np.float32 and np.allclose(got[..., 0], x / 255, atol=1e-7)
    assert got.min() == 0.0 and got.max() == 1.0


def test_images_of_real_numbers_are_left_as_they_are():
    x = RNG.normal(5, 1, (6, 2, 2))
    got, _ = make(x, [0, 1] * 3, (x, np.array([0, 1] * 3)), request=Request(dtype=np.float64)).train.batch(
        np.arange(6)
    )
    assert (got[..., 0] == x).all()


@pytest.mark.parametrize("scale", [None, 0.5])
def test_batches_are_fresh(scale):
    data = Arrays(np.ones((4, 2)), np.ones((4, 1)), np.float32, scale)
    for array in data.batch(np.array([1, 2])):
        array[:] = 7
    x, y = data.batch(np.array([1, 2]))
    assert (x == (scale or 1)).all() and (y == 1).all()


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.ones((5, 2)), np.ones(4), r"t: x has 5 rows, y has 4: they must be as many"),
        (
            np.ones((2, 1, 1, 1, 1)),
            np.ones(2),
            r"t: x of shape \(2, 1, 1, 1, 1\) and y of shape \(2,\): needed are",
        ),
        (np.ones((5, 0)), np.ones(5), r"t: x of shape \(5, 0\)"),
        (np.ones((0, 3)), np.ones(0), r"t: x of shape \(0, 3\)"),
        (np.float64(3), np.ones(1), r"t: x of shape \(\)"),
        (np.ones((5, 2)), np.ones((5, 2, 2)), r"y of shape \(5, 2, 2\)"),
        (np.array([["a"], ["b"]]), np.ones(2), r"t: x is of type <U1: plain numbers are needed"),
        (np.ones((2, 1)), np.ones(2, complex), r"t: y is of type complex128"),
        (np.ones((1, 2)), np.ones(1) / 2, r"t: 1 rows are too few"),
    ],
)
def test_wrong_shapes_and_types_are_refused(x, y, message):
    with pytest.raises(UserError, match=message):
        make(x, y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_located(value):
    x = features(8)
    x[5, 2] = value
    with pytest.raises(UserError, match=rf"t: x\[5, 2\] is {value}: remove or replace"):
        make(x, np.ones(8) / 2)
    with pytest.raises(UserError, match=rf"t: y\[3\] is {value}"):
        make(features(8), np.where(np.arange(8) == 3, value, 0.5))
    with pytest.raises(UserError, match=rf"t: x_test\[5, 2\] is {value}"):
        make(features(8), np.ones(8) / 2, (x, np.ones(8) / 2))


@pytest.mark.parametrize(
    "y, message",
    [
        ([0, 1, -1, 0], r"y\[2\] is -1, no class of 0, 1, 2, \.\.\.: number the classes"),
        ([0, 1, 3, 0], r"labels reach 3, but no sample is of class 2"),
        ([1, 2, 1, 2], r"labels reach 2, but no sample is of class 0"),
        ([1e300, 2e300] * 2, r"labels reach 2e\+300, but no sample is of class 0"),
        ([True] * 4, r"labels reach 1, but no sample is of class 0"),
        ([0, 0.5, 1, 0], r"y\[1\] is 0\.5, no class"),
        ([0, 0, 0, 0], r"every label is 0: there is nothing to tell apart"),
        ([[0, 1]] * 4, r"y of shape \(4, 2\): --task classes needs one label a row"),
    ],
)
def test_wrong_labels_are_refused(y, message):
    with pytest.raises(UserError, match=message):
        make(features(4), y, task="classes")


def test_a_test_label_that_training_lacks_is_refused():
    with pytest.raises(UserError, match=r"t: y_test\[1\] is 2, no class of 0 \.\.\. 1"):
        make(features(4), [0, 1, 0, 1], (features(2), np.array([0, 2])))


def test_a_test_part_of_another_shape_is_refused():
    with pytest.raises(
        UserError, match=r"t: test samples of shape \(4,\) with targets \(\) do not fit training"
    ):
        make(features(4), [0, 1, 0, 1], (features(2, 4), np.array([0, 1])))


def test_numbers_beyond_the_dtype_are_refused():
    with pytest.raises(UserError, match="t: numbers too large for float16: choose a wider --dtype"):
        make(features(4), [1e5, 2e5, 3e5, 4.5], request=Request(dtype=np.float16))


def test_synthetic_regression_knows_its_answer():
    data = load("synthetic-regression", None, Request(dtype=np.float64))
    assert len(data.train) == 1000 and len(data.validation) == 100
    x, y = data.train.batch(np.arange(1000))
    w, b = data.truth["weight"], data.truth["bias"]
    assert w.shape == (10, 1) and b.shape == (1,) and w.dtype == b.dtype == np.float64
    residual = y - x @ w - b
    # At the minimum the gradient is zero, and what is left is the noise.
    assert np.abs(x.T @ residual).max() < 1e-9 and abs(residual.sum()) < 1e-9
    assert residual.std() == pytest.approx(0.1, rel=0.1)
    vx, vy = data.validation.batch(np.arange(100))
    assert (vy - vx @ w - b).std() == pytest.approx(0.1, rel=0.3)
    assert not (vx[:, None] == x[None]).all(axis=2).any()


def test_synthetic_regression_obeys_its_options():
    options = RegressionOptions(samples=50, features=3, noise=0.0)
    data = load("synthetic-regression", options, Request(dtype=np.float64, seed=1))
    x, y = data.train.batch(np.arange(50))
    assert x.shape == (50, 3) and np.abs(y - x @ data.truth["weight"] - data.truth["bias"]).max() < 1e-12
    other = load("synthetic-regression", options, Request(dtype=np.float64, seed=2))
    assert np.abs(other.truth["weight"] - data.truth["weight"]).max() > 0.01


def test_synthetic_classes_are_clouds_around_their_centres():
    options = ClassesOptions(samples=600, features=4, classes=3, separation=10.0)
    data = load("synthetic-classes", options, Request(dtype=np.float64))
    x, y = data.train.batch(np.arange(600))
    assert data.schema == Schema("classes", (4,), 3) and np.bincount(y).tolist() == [200] * 3
    centres = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    assert np.abs(x - centres[y]).std() < 1.0
    vx, vy = data.validation.batch(np.arange(60))
    nearest = np.linalg.norm(vx[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == vy).mean() > 0.95


def test_more_synthetic_classes_than_samples_are_refused():
    with pytest.raises(UserError, match="--classes 5 are more than --samples 4"):
        load("synthetic-classes", ClassesOptions(samples=4, classes=5), Request())
