"""Samples as they lie: x and y of each, in memory or in files."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mpidp.data.stored import StoredRows

LARGEST = 1 << 28
"""Bytes: arrays of more are read where they lie, if the kind of file allows it, however much memory there is."""

COPIES = (
    4  # of an array in float64 that there are at once while it is checked, split and standardised in memory
)
BLOCK = 1 << 20  # elements of x that are looked at together

Array = np.ndarray | StoredRows


class Rows:
    """N samples in two arrays; `arrays` are what a hash of them has to cover."""

    def __init__(self, x: Array, y: Array):
        self.x, self.y = x, y
        self.x_shape, self.y_shape = x.shape, y.shape
        self.x_dtype, self.y_dtype = x.dtype, y.dtype
        self.arrays: Sequence[Array] = (x, y)

    def __len__(self) -> int:
        return self.x_shape[0]

    @property
    def in_memory(self) -> bool:
        return not any(isinstance(array, StoredRows) for array in self.arrays)

    @property
    def each(self) -> int:
        """How many samples a block has: the same wherever they are, so that sums over blocks have the same bits."""
        return max(1, BLOCK // max(1, math.prod(self.x_shape[1:])))

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of these samples, not to be written to."""
        return _taken(self.x, indices), _taken(self.y, indices)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, y) of all samples, some at a time, in the order in which they lie."""
        # Strict: it goes to the end of both, where checksums are looked at.
        return zip(_blocks(self.x, self.each), _blocks(self.y, self.each), strict=True)

    def targets(self) -> Iterator[np.ndarray]:
        """y of all samples, some at a time."""
        return _blocks(self.y, BLOCK)

    @property
    def bytes_as_they_are(self) -> bool:
        """Whether nothing can be wrong with x: images of bytes, of which no checksum is known."""
        checked = isinstance(self.x, StoredRows) and self.x.checksum
        return len(self.x_shape) > 2 and self.x_dtype == np.uint8 and not checked


class TableRows(Rows):
    """Samples in one array of rows and columns, y being its last column."""

    def __init__(self, table: Array):
        n, columns = table.shape
        self.table, self.arrays = table, (table,)
        self.x_shape, self.y_shape = (n, columns - 1), (n,)
        self.x_dtype = self.y_dtype = table.dtype

    def take(self, indices):
        return _cut(_taken(self.table, indices))

    def blocks(self):
        return map(_cut, _blocks(self.table, self.each))

    def targets(self):
        return (y for _, y in self.blocks())

    @property
    def bytes_as_they_are(self):
        return False


def _taken(array: Array, indices: np.ndarray) -> np.ndarray:
    return array.take(indices) if isinstance(array, StoredRows) else array[indices]


def _blocks(array: Array, each: int) -> Iterator[np.ndarray]:
    if isinstance(array, StoredRows):
        return array.blocks(each)
    return (array[lo : lo + each] for lo in range(0, len(array), each))


def _cut(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return table[:, :-1], table[:, -1]
