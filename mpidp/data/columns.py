"""What must be known of samples before training: they are looked at once, some at a time, wherever they lie."""

import math
from collections.abc import Callable

import numpy as np

from mpidp.data.rows import Rows
from mpidp.errors import UserError

FEW_CLASSES = 100  # --task auto: more distinct targets than these are values

Place = Callable[[str, tuple[int, ...]], str]  # ("x" or "y", index) -> what to call that cell in a message


class Moments:
    """Mean and standard deviation of each column.

    Blocks are joined as by Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
    doi:10.1080/00031305.1983.10483115.
    """

    def __init__(self, columns: int):
        self.count = 0
        self.mean, self.squares = np.zeros(columns), np.zeros(columns)

    def add(self, x: np.ndarray) -> None:
        """x: (rows, columns) in float64."""
        if not len(x):
            return
        mean = x.mean(axis=0)
        total, away = self.count + len(x), mean - self.mean
        self.squares += np.square(x - mean).sum(axis=0) + away * away * (self.count * len(x) / total)
        self.mean += away * (len(x) / total)
        self.count = total

    def deviation(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count)


class Range:
    """The least and the greatest number, of each column or of all."""

    def __init__(self):
        self.low: np.ndarray = np.float64(np.inf)
        self.high: np.ndarray = np.float64(-np.inf)

    def add(self, x: np.ndarray, axis: int | None = None) -> None:
        if x.size:
            self.low = np.minimum(self.low, x.min(axis=axis))
            self.high = np.maximum(self.high, x.max(axis=axis))

    @property
    def largest(self) -> np.ndarray:
        return np.maximum(np.abs(self.low), np.abs(self.high))


class Columns:
    """What one pass over samples finds. Raises UserError for what is not finite.

    all, targets: the ranges of x and y; trained, moments: those of the rows of a table that are for training.
    """

    def __init__(self, name: str, suffix: str, place: Place, task: str, rows: Rows):
        self.name, self.suffix, self.place = name, suffix, place
        self.rows, self.task = rows, task
        self.moments = Moments(math.prod(rows.x_shape[1:])) if len(rows.x_shape) <= 2 else None
        self.trained, self.all, self.targets = Range(), Range(), Range()
        self.integers = True
        self.distinct: np.ndarray | None = None  # targets, sorted; None: too many to be classes
        self.no_class: tuple[int, float] | None = None  # the first target that is none, and its place

    def look(self, used: Callable[[np.ndarray], np.ndarray] | None) -> "Columns":
        """`used(rows)`: which of these are for training; None: none of them."""
        self.distinct = np.empty(0, self.rows.y_dtype)
        lo = 0
        if self.rows.bytes_as_they_are:
            for y in self.rows.targets():
                self._targets(y, lo)
                lo += len(y)
            return self
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # of squares, which are looked at when all is added up
            for x, y in self.rows.blocks():
                self._finite("x", x, lo)
                self._targets(y, lo)
                self._features(x, used and used(np.arange(lo, lo + len(x))))
                lo += len(y)
        return self

    def _features(self, x: np.ndarray, used: np.ndarray | None) -> None:
        if self.moments is None:
            self.all.add(x)
            return
        x = x.reshape(len(x), -1).astype(np.float64)
        self.all.add(x, axis=0)
        if used is not None:
            chosen = x[used]
            self.trained.add(chosen, axis=0)
            self.moments.add(chosen)

    def _finite(self, label: str, array: np.ndarray, lo: int) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            value, at = array[at], (lo + at[0], *at[1:])
            raise UserError(
                f"{self.name}: {self.place(label + self.suffix, at)} is {value}: remove or replace what is no finite "
                "number"
            )

    def _targets(self, y: np.ndarray, lo: int) -> None:
        self._finite("y", y, lo)
        self.targets.add(y)
        if not self.one_target:
            return
        y = y.reshape(-1)
        wrong = y < 0
        if y.dtype.kind == "f":
            fraction = y != np.rint(y)
            self.integers &= not fraction.any()
            wrong |= fraction
        if self.no_class is None and wrong.any():
            at = int(np.argmax(wrong))
            self.no_class = lo + at, y[at]
        if self.distinct is not None and self.task != "values":
            self.distinct = np.union1d(self.distinct, y)
            if self.task == "auto" and len(self.distinct) > FEW_CLASSES:
                self.distinct = None

    @property
    def one_target(self) -> bool:
        return math.prod(self.rows.y_shape[1:]) == 1

    def are_classes(self) -> bool:
        """Whether the targets are classes, as --task says or by their look."""
        if self.task != "auto" or not self.one_target:
            return self.task == "classes"
        if not self.integers or self.distinct is None:
            return False
        return len(self.distinct) <= max(2, len(self.rows) // 2)

    def count_classes(self) -> int:
        """K: the labels are all of 0 … K-1, K ≥ 2. Raises UserError where they are not."""
        present = self.distinct
        if not self.one_target:
            raise UserError(
                f"{self.name}: y{self.suffix} of shape {self.rows.y_shape}: --task classes needs one label a row"
            )
        if self.no_class:
            self.refuse(*self.no_class, "0, 1, 2, ...")
        count = len(present)
        if present[-1] != count - 1:
            gap = int(np.argmax(present != np.arange(count)))
            raise UserError(
                f"{self.name}: labels reach {float(present[-1]):.15g}, but no sample is of class {gap}: {HINT}"
            )
        if count < 2:
            raise UserError(
                f"{self.name}: every label is 0: there is nothing to tell apart; choose --task values"
            )
        return count

    def require_classes(self, count: int) -> None:
        """Raise UserError where a target is not one of these classes."""
        if self.no_class is None and self.targets.high >= count:
            lo = 0
            for y in self.rows.targets():
                if (y >= count).any():
                    at = int(np.argmax(y >= count))
                    self.no_class = lo + at, y.reshape(-1)[at]
                    break
                lo += len(y)
        if self.no_class:
            self.refuse(*self.no_class, f"0 ... {count - 1}")

    def refuse(self, at: int, value: float, known: str) -> None:
        cell = self.place("y" + self.suffix, (at,))
        raise UserError(f"{self.name}: {cell} is {value}, no class of {known}: {HINT}")


HINT = "number the classes 0, 1, 2, ... without gaps, or choose --task values"
