"""Rows of numbers and images: checked, split, standardised."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.data.schema import Data, Dataset, Request, Schema
from mpidp.data.stored import array_digest
from mpidp.data.streams import permutation
from mpidp.errors import UserError
from mpidp.options import option

FEW_CLASSES = 100  # --task auto: more distinct targets than these are values
_SHUFFLE = 2**62 + 16  # place of the shuffle before the validation part is cut off (see streams.py)

Place = Callable[[str, tuple[int, ...]], str]  # ("x" or "y", index) -> what to call that cell in a message
Part = tuple[np.ndarray, np.ndarray]


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
    Raises UserError for wrong shapes, what is not a number, gaps in the classes, too few rows.
    """
    place = place or _index
    parts = [_checked(name, part, place, suffix) for part, suffix in _named(train, test)]
    (x, y), others = parts[0], parts[1:]
    for other_x, other_y in others:
        if other_x.shape[1:] != x.shape[1:] or other_y.shape[1:] != y.shape[1:]:
            raise UserError(
                f"{name}: test samples of shape {other_x.shape[1:]} with targets {other_y.shape[1:]} do not fit "
                f"training samples of shape {x.shape[1:]} with targets {y.shape[1:]}"
            )
    held_out = max(1, round(len(x) * request.validation_fraction))
    if not others and held_out >= len(x):
        raise UserError(
            f"{name}: {len(x)} rows are too few for a training and a validation part "
            f"(--validation-fraction {request.validation_fraction})"
        )
    classes = _is_classes(task, y)
    outputs = _count_classes(name, parts, place) if classes else (y.shape[1] if y.ndim > 1 else 1)
    if not others:
        order = permutation(len(x), request.seed, _SHUFFLE)
        kept, tail = order[: len(x) - held_out], order[len(x) - held_out :]
        parts = [(x[kept], y[kept]), (x[tail], y[tail])]
    if x.ndim == 2:
        parts = _standardised(name, parts)
    elif scale is None and x.dtype == np.uint8:
        scale = 1 / 255
    datasets = []
    for part_x, part_y in parts:
        target = part_y if classes else part_y.reshape(len(part_y), outputs)
        with np.errstate(over="ignore"):  # looked at in the next line
            dataset = Arrays(part_x, target, request.dtype, scale, classes)
        if not (np.isfinite(dataset.y).all() and (scale is not None or np.isfinite(dataset.x).all())):
            raise UserError(
                f"{name}: numbers too large for {dataset.dtype}: choose a wider --dtype, or rescale them"
            )
        datasets.append(dataset)
    schema = Schema("classes" if classes else "values", parts[0][0].shape[1:], outputs)
    content = array_digest(*(array for part in (train, test) if part is not None for array in part))
    return Data(name, schema, datasets[0], datasets[1], content=content)


def _named(train: Part, test: Part | None) -> list[tuple[Part, str]]:
    return [(train, "")] if test is None else [(train, "_train"), (test, "_test")]


def _index(array: str, index: tuple[int, ...]) -> str:
    return f"{array}[{', '.join(map(str, index))}]"


def _checked(name: str, part: Part, place: Place, suffix: str) -> Part:
    """x as (N, F) or (N, height, width, channels), y as (N,) or (N, K > 1), all numbers."""
    x, y = part
    for label, array in (("x" + suffix, x), ("y" + suffix, y)):
        if array.dtype.kind not in "biuf":
            raise UserError(f"{name}: {label} is of type {array.dtype}: plain numbers are needed")
    if not 1 <= x.ndim <= 4 or not 1 <= y.ndim <= 2 or 0 in x.shape or 0 in y.shape:
        raise UserError(
            f"{name}: x{suffix} of shape {x.shape} and y{suffix} of shape {y.shape}: needed are x (rows, features) or "
            "(rows, height, width[, channels]) and y (rows,) or (rows, targets), not empty"
        )
    if len(x) != len(y):
        raise UserError(f"{name}: x{suffix} has {len(x)} rows, y{suffix} has {len(y)}: they must be as many")
    for label, array in (("x" + suffix, x), ("y" + suffix, y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise UserError(
                f"{name}: {place(label, at)} is {array[at]}: remove or replace what is no finite number"
            )
    if x.ndim == 1:
        x = x[:, None]
    elif x.ndim == 3:
        x = x[..., None]
    return x, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _is_classes(task: str, y: np.ndarray) -> bool:
    if task != "auto" or y.ndim > 1:
        return task == "classes"
    if y.dtype.kind == "f" and (y != np.rint(y)).any():
        return False
    return len(np.unique(y)) <= min(FEW_CLASSES, max(2, len(y) // 2))


def _count_classes(name: str, parts: list[Part], place: Place) -> int:
    """K; the training labels are all of 0 … K-1, K ≥ 2, and the test labels are of these."""
    hint = "number the classes 0, 1, 2, ... without gaps, or choose --task values"
    suffixes = ("",) if len(parts) == 1 else ("_train", "_test")
    count = 0
    for (_, y), suffix in zip(parts, suffixes, strict=True):
        if y.ndim > 1:
            raise UserError(f"{name}: y{suffix} of shape {y.shape}: --task classes needs one label a row")
        wrong = (y < 0) | (y != np.rint(y)) if y.dtype.kind == "f" else y < 0
        if count:
            wrong |= y >= count
        if wrong.any():
            at = int(np.argmax(wrong))
            known = f"0 ... {count - 1}" if count else "0, 1, 2, ..."
            raise UserError(f"{name}: {place('y' + suffix, (at,))} is {y[at]}, no class of {known}: {hint}")
        if not count:
            present = np.unique(y)
            count = len(present)
            if present[-1] != count - 1:
                gap = int(np.argmax(present != np.arange(count)))
                raise UserError(
                    f"{name}: labels reach {float(present[-1]):.15g}, but no sample is of class {gap}: {hint}"
                )
            if count < 2:
                raise UserError(
                    f"{name}: every label is 0: there is nothing to tell apart; choose --task values"
                )
    return count


def _standardised(name: str, parts: list[Part]) -> list[Part]:
    x = parts[0][0].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # looked at in the next line
        mean, deviation = x.mean(axis=0), x.std(axis=0)
    if not np.isfinite(deviation).all():
        raise UserError(f"{name}: the squares of numbers up to {np.abs(x).max():.3g} overflow: rescale them")
    # A column of equal numbers has a deviation of rounding errors, not of 0.
    deviation[deviation <= 1e-12 * np.abs(x).max(axis=0)] = 1.0
    return [((part_x - mean) / deviation, part_y) for part_x, part_y in parts]
