"""Rows of numbers and images: checked, split, standardised."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mpidp.data.columns import FEW_CLASSES, Columns, Place
from mpidp.data.rows import Rows
from mpidp.data.schema import Data, Dataset, Request, Schema
from mpidp.data.split import MANY
from mpidp.data.stored import array_digest
from mpidp.data.streams import Orders, permutation
from mpidp.errors import UserError
from mpidp.options import option

_SHUFFLE = 2**62 + 16  # place of the shuffle before the validation part is cut off (see streams.py)

Part = tuple[np.ndarray, np.ndarray] | Rows
Choice = Callable[[np.ndarray], np.ndarray]
"""Samples of a part -> which rows they are."""


@dataclass
class TableOptions:
    """What the targets are."""

    task: str = option(
        "auto",
        f"what the targets are; auto: classes where they are integers of few (at most {FEW_CLASSES}) values",
        choices=("auto", "classes", "values"),
    )


class Arrays(Dataset):
    """Samples in two arrays; with a scale, x = scale · rows, whose bytes are cast to `dtype` a batch at a time."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, dtype: Any, scale: float | None = None, classes: bool = False
    ):
        self.dtype = np.dtype(dtype)
        self.scale = None if scale is None else self.dtype.type(scale)
        self.x = np.ascontiguousarray(x) if scale is not None else np.ascontiguousarray(x, self.dtype)
        self.y = np.ascontiguousarray(y, np.int32 if classes else self.dtype)
        self.labels = self.y if classes else None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = np.asarray(indices, np.int64)
        x, y = self.x[indices], self.y[indices]
        if self.scale is not None:
            x = x.astype(self.dtype)
            x *= self.scale
        return x, y


class Form:
    """What becomes of a row of a table or an image: x in the run's type, standardised or scaled; y as targets."""

    def __init__(self, dtype: Any, outputs: int, classes: bool, scale: float | None = None):
        self.dtype, self.outputs, self.classes = np.dtype(dtype), outputs, classes
        self.scale = None if scale is None else self.dtype.type(scale)
        self.mean = self.deviation = None

    def standardise(self, name: str, found: Columns) -> None:
        """By the numbers of the training part; columns that do not vary are only centred."""
        trained, moments = found.trained, found.moments
        deviation, mean = moments.deviation(), moments.mean
        if not np.isfinite(deviation).all():
            raise UserError(
                f"{name}: the squares of numbers up to {trained.largest.max():.3g} overflow: rescale them"
            )
        # A column of equal numbers has a deviation of rounding errors, not of 0.
        deviation[deviation <= 1e-12 * trained.largest] = 1.0
        equal = trained.low == trained.high
        mean[equal], deviation[equal] = trained.low[equal], 1.0
        self.mean, self.deviation = mean, deviation

    def fits(self, found: Columns) -> bool:
        """Whether all numbers are finite in the run's type: where the least and the greatest are."""
        ranges = [] if self.classes else [(found.targets.low, found.targets.high)]
        if self.scale is None:
            x = found.all.low, found.all.high
            ranges.append(x if self.mean is None else tuple((x - self.mean) / self.deviation for x in x))
        with np.errstate(over="ignore"):
            return all(
                np.isfinite(np.asarray(end).astype(self.dtype)).all() for ends in ranges for end in ends
            )

    def x(self, x: np.ndarray) -> np.ndarray:
        if x.ndim in (1, 3):
            x = x[..., None]
        if self.mean is not None:
            x = (x - self.mean) / self.deviation
        x = np.array(x, self.dtype, order="C")
        if self.scale is not None:
            x *= self.scale
        return x

    def y(self, y: np.ndarray) -> np.ndarray:
        y = y.reshape(-1) if self.classes else y.reshape(len(y), self.outputs)
        return np.array(y, np.int32 if self.classes else self.dtype, order="C")


class Selected(Dataset):
    """`size` samples of `rows`, which are read and put into form when they are asked for."""

    def __init__(self, rows: Rows, choice: Choice, size: int, form: Form):
        self.rows, self.choice, self.size, self.form = rows, choice, size, form

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.rows.take(self.choice(np.asarray(indices, np.int64)))
        return self.form.x(x), self.form.y(y)

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        if not self.form.classes:
            return None
        each = self.rows.each
        parts = [
            self.rows.take(self.choice(np.arange(lo, min(lo + each, self.size))))[1]
            for lo in range(0, self.size, each)
        ]
        return np.concatenate([self.form.y(part) for part in parts])

    def held(self) -> Arrays:
        """The same, in memory: bytes that are to be scaled stay bytes."""
        x, y = self.rows.take(self.choice(np.arange(self.size)))
        form = self.form
        if form.scale is None:
            return Arrays(form.x(x), form.y(y), form.dtype, classes=form.classes)
        return Arrays(
            x[..., None] if x.ndim in (1, 3) else x, form.y(y), form.dtype, form.scale, form.classes
        )


def table_data(
    name: str,
    train: Part,
    test: Part | None,
    request: Request,
    task: str = "auto",
    scale: float | None = None,
    place: Place | None = None,
) -> Data:
    """Data of (x, y) arrays; `test`, where there is one, is the validation part, else a seeded choice of rows is.

    x: (N, F) or (N,) features, which are standardised, x ← (x - mean) / std over the training part (columns
    that do not vary are only centred); or (N, height, width[, channels]) images, multiplied by `scale` (uint8
    ones: 1/255). y: (N,) classes 0 … K-1, or (N,) or (N, K) values. `place` names a cell in messages.
    What is in files is looked at once, a block at a time, and then read when it is asked for.
    Raises UserError for wrong shapes, what is not a number, gaps in the classes, too few rows.
    """
    place = place or _index
    suffixes = ("",) if test is None else ("_train", "_test")
    parts = [part if isinstance(part, Rows) else Rows(*part) for part in (train, test) if part is not None]
    for part, suffix in zip(parts, suffixes, strict=True):
        _require_shapes(name, part, suffix)
    first, last = parts[0], parts[-1]
    if _sample(first) != _sample(last):
        (x, y), (other_x, other_y) = _sample(first), _sample(last)
        raise UserError(
            f"{name}: test samples of shape {other_x} with targets {other_y} do not fit training samples of shape "
            f"{x} with targets {y}"
        )
    n = len(first)
    held_out = 0 if test is not None else max(1, round(n * request.validation_fraction))
    if held_out >= n:
        raise UserError(
            f"{name}: {n} rows are too few for a training and a validation part "
            f"(--validation-fraction {request.validation_fraction})"
        )
    order, kept = (_in_order, _all) if test is not None else _shuffled(n, held_out, request.seed)
    found = [Columns(name, suffixes[0], place, task, first).look(kept)]
    classes = found[0].are_classes()
    outputs = found[0].count_classes() if classes else first.y_shape[1] if len(first.y_shape) > 1 else 1
    if test is not None:
        found.append(Columns(name, suffixes[1], place, task, last).look(None))
        if classes:
            found[1].require_classes(outputs)
    if scale is None and len(first.x_shape) > 2 and first.x_dtype == np.uint8:
        scale = 1 / 255
    form = Form(request.dtype, outputs, classes, scale)
    if found[0].moments is not None:
        form.standardise(name, found[0])
    if not all(map(form.fits, found)):
        raise UserError(
            f"{name}: numbers too large for {form.dtype}: choose a wider --dtype, or rescale them"
        )
    if test is None:
        datasets = [
            Selected(first, order, n - held_out, form),
            Selected(first, lambda i: order(i + (n - held_out)), held_out, form),
        ]
    else:
        datasets = [Selected(part, _in_order, len(part), form) for part in parts]
    schema = Schema("classes" if classes else "values", _sample(first)[0], outputs)
    content = array_digest(*(array for part in parts for array in part.arrays))
    train_data, validation = (data.held() if data.rows.in_memory else data for data in datasets)
    return Data(name, schema, train_data, validation, content=content)


def _in_order(samples: np.ndarray) -> np.ndarray:
    return samples


def _all(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows), bool)


def _shuffled(n: int, held_out: int, seed: int) -> tuple[Choice, Choice]:
    """A seeded order of n rows, and which of some rows are not among its last `held_out`.

    The order is held up to a size, and computed beyond.
    """
    if n > MANY:
        orders = Orders(np.array([n]), n, seed, _SHUFFLE)
        return orders.at, lambda rows: orders.places(rows) < n - held_out
    order = permutation(n, seed, _SHUFFLE)
    kept = np.ones(n, bool)
    kept[order[n - held_out :]] = False
    return order.__getitem__, kept.__getitem__


def _index(array: str, index: tuple[int, ...]) -> str:
    return f"{array}[{', '.join(map(str, index))}]"


def _sample(rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of a sample's x and y."""
    x, y = rows.x_shape[1:], rows.y_shape[1:]
    return {0: (1,), 2: (*x, 1)}.get(len(x), x), () if y == (1,) else y


def _require_shapes(name: str, rows: Rows, suffix: str) -> None:
    """x must be (N,), (N, F) or (N, height, width[, channels]), y (N,) or (N, K), all numbers."""
    for label, dtype in (("x" + suffix, rows.x_dtype), ("y" + suffix, rows.y_dtype)):
        if dtype.kind not in "biuf":
            raise UserError(f"{name}: {label} is of type {dtype}: plain numbers are needed")
    x, y = rows.x_shape, rows.y_shape
    if not 1 <= len(x) <= 4 or not 1 <= len(y) <= 2 or 0 in x or 0 in y:
        raise UserError(
            f"{name}: x{suffix} of shape {x} and y{suffix} of shape {y}: needed are x (rows, features) or "
            "(rows, height, width[, channels]) and y (rows,) or (rows, targets), not empty"
        )
    if x[0] != y[0]:
        raise UserError(f"{name}: x{suffix} has {x[0]} rows, y{suffix} has {y[0]}: they must be as many")
