"""Files that are read where they lie: of files larger than memory, a rank holds what it has asked for alone.

They are read by position (`pread`), not by a memory map. A map costs address space as large as the file, which
clusters limit, and where a mapped file shrinks or its disk fails the kernel ends the process (SIGBUS) without a word;
a read that fails is an error, and can be told.
"""

import hashlib
import math
import os
import weakref
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.data.files import handle, regular
from mpidp.errors import RunError, UserError

OPEN = 64  # files held open at a time, of folders of any number of files
WHOLE = (
    64 << 20
)  # bytes that a digest covers: all of them up to this size, else spread blocks of so many in all
BLOCK = 1 << 16  # bytes of one such block


class Stored:
    """The bytes of files, one behind the other, with `between` between two of them; empty files are passed over.

    Whoever reads finds what was there when the files were first looked at. Raises RunError where that is gone: a
    file has vanished, shrunk or changed, or its disk fails. (An unlinked file that is still open is still there.)
    """

    def __init__(self, paths: Sequence[Path], between: bytes = b"\n"):
        self.between = between
        self._known: list[tuple[str, int, int]] = []  # (path, bytes, time of its last change)
        self._open: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._open)
        for path in paths:
            found = regular(path)
            if found.st_size:
                self._known.append((str(path), found.st_size, found.st_mtime_ns))
                self._handle(len(self._known) - 1)  # whoever may not read it is told so now
        sizes = [size + len(between) for _, size, _ in self._known]
        self._starts = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        return max(0, self._starts[-1] - len(self.between))

    def read(self, lo: int, hi: int) -> bytes:
        """Bytes [lo, hi), which are there."""
        which = bisect_right(self._starts, lo) - 1
        parts = []
        while lo < hi:
            start, size = self._starts[which], self._known[which][1]
            end = min(hi, start + size)
            if lo < end:
                parts.append(self._pread(which, end - lo, [lo - start]))
            if hi > start + size:
                parts.append(self.between[max(0, lo - start - size) : hi - start - size])
            which += 1
            lo = self._starts[which]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def rows(self, starts: Sequence[int], n: int) -> bytes:
        """Bytes [start, start + n) for each start."""
        if len(self._known) == 1:
            return self._pread(0, n, starts)
        return b"".join([self.read(start, start + n) for start in starts])

    def place(self, at: int) -> str:
        """What to call byte `at` in a message."""
        which = min(bisect_right(self._starts, at), len(self._known)) - 1
        return f"{self._known[which][0]}: byte {at - self._starts[which]}"

    def digest(self) -> str:
        """SHA-256 of the size and the bytes: of all up to `WHOLE`, else of `WHOLE` bytes in evenly spread blocks."""
        return spread_digest(len(self), self.read)

    def array(self, dtype: Any = np.uint8, skip: int = 0) -> "StoredArray":
        """The bytes after the first `skip` as elements of this type."""
        dtype = np.dtype(dtype)
        return StoredArray(self, dtype, skip, 0, (len(self) - skip) // dtype.itemsize)

    def _pread(self, which: int, n: int, offsets: Sequence[int]) -> bytes:
        path, size, changed = self._known[which]
        try:
            opened = self._handle(which)
            content = b"".join([os.pread(opened, n, offset) for offset in offsets])
            found = os.fstat(opened)  # after the read: what was read was there before any later change
        except OSError as error:
            raise RunError(f"{path}: cannot be read any more: {error.strerror}") from None
        except UserError as error:
            raise RunError(f"{error} (it could be read when the run began)") from None
        if found.st_size < size or len(content) < n * len(offsets):
            raise RunError(f"{path}: has shrunk from {size:,} to {found.st_size:,} bytes since the run began")
        if (found.st_size, found.st_mtime_ns) != (size, changed):
            raise RunError(
                f"{path}: was written to since the run began, but a run needs the same data throughout"
            )
        return content

    def _handle(self, which: int) -> int:
        """The file, open: of many, those used last are."""
        if which in self._open:
            self._open.move_to_end(which)
            return self._open[which]
        if len(self._open) >= OPEN:
            os.close(self._open.popitem(last=False)[1])
        opened = self._open[which] = handle(self._known[which][0])
        return opened


@dataclass(frozen=True)
class StoredArray:
    """Elements [lo, hi) of a row of them that begins at byte `skip`: as an array's, but none of them in memory."""

    stored: Stored
    dtype: np.dtype
    skip: int
    lo: int
    hi: int

    def __len__(self) -> int:
        return self.hi - self.lo

    def __getitem__(self, part: slice) -> "StoredArray":
        lo, hi, _ = part.indices(len(self))
        return replace(self, lo=self.lo + lo, hi=self.lo + max(lo, hi))

    def rows(self, starts: np.ndarray, n: int) -> np.ndarray:
        """(len(starts), n): elements [start, start + n) for each start."""
        size = self.dtype.itemsize
        places = (np.asarray(starts, np.int64) + self.lo) * size + self.skip
        return np.frombuffer(self.stored.rows(places.tolist(), n * size), self.dtype).reshape(-1, n)


@dataclass(frozen=True)
class StoredRows:
    """An array of `shape` whose rows lie one behind the other in `elements`.

    checksum: (CRC-32 of what lies before the elements, of that and all elements, where they are), if there is one.
    """

    elements: StoredArray
    shape: tuple[int, ...]
    checksum: tuple[int, int, str] | None = None

    @property
    def dtype(self) -> np.dtype:
        return self.elements.dtype

    def take(self, indices: np.ndarray) -> np.ndarray:
        """(len(indices), *shape[1:]): these rows, not to be written to."""
        width = math.prod(self.shape[1:])
        rows = self.elements.rows(np.asarray(indices, np.int64) * width, width)
        return rows.reshape(-1, *self.shape[1:])

    def blocks(self, each: int) -> Iterator[np.ndarray]:
        """All rows, `each` at a time. Raises RunError where, in the end, they are not what the checksum is of."""
        width = math.prod(self.shape[1:])
        found = self.checksum[0] if self.checksum else 0
        for lo in range(0, self.shape[0], each):
            rows = min(each, self.shape[0] - lo)
            block = self.elements.rows(np.array([lo * width]), rows * width)
            if self.checksum:
                found = zlib.crc32(memoryview(block.reshape(-1).view(np.uint8)), found)
            yield block.reshape(rows, *self.shape[1:])
        if self.checksum and found != self.checksum[1]:
            raise RunError(f"{self.checksum[2]} does not fit its checksum: damaged")

    def read(self, lo: int, hi: int) -> bytes:
        """Bytes [lo, hi) of the elements."""
        first = self.elements.skip + self.elements.lo * self.dtype.itemsize
        return self.elements.stored.read(first + lo, first + hi)


class Held:
    """Bytes in memory, with the verbs of `Stored`; `name` says where they are from."""

    def __init__(self, name: str, content: bytes | bytearray):
        self.name, self.content = name, content

    def __len__(self) -> int:
        return len(self.content)

    def read(self, lo: int, hi: int) -> bytes:
        return bytes(self.content[lo:hi])

    def place(self, at: int) -> str:
        return f"{self.name}: byte {at}"

    def digest(self) -> str:
        return spread_digest(len(self), self.read)

    def array(self) -> np.ndarray:
        return np.frombuffer(self.content, np.uint8)


def _close(handles: OrderedDict[int, int]) -> None:
    for opened in handles.values():
        os.close(opened)


def spread_digest(size: int, read: Callable[[int, int], bytes | memoryview]) -> str:
    """SHA-256 of `size` and of bytes [0, size), or of evenly spread blocks where they are more than `WHOLE`."""
    digest = hashlib.sha256(str(size).encode())
    if size <= WHOLE:
        starts, block = list(range(0, size, 1 << 22)), 1 << 22
    else:
        starts, block = [int(s) for s in np.linspace(0, size - BLOCK, WHOLE // BLOCK)], BLOCK
    for start in starts:
        digest.update(read(start, min(start + block, size)))
    return digest.hexdigest()


def array_digest(*arrays: np.ndarray | StoredRows) -> str:
    """As `Stored.digest`, of types, shapes and elements, wherever these are."""
    digest = hashlib.sha256()
    for array in arrays:
        size = math.prod(array.shape) * array.dtype.itemsize
        told = spread_digest(size, array.read if isinstance(array, StoredRows) else _reader(array))
        digest.update(f"{array.dtype.str} {array.shape} {told}".encode())
    return digest.hexdigest()


def _reader(array: np.ndarray) -> Callable[[int, int], memoryview]:
    raw = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return lambda lo, hi: raw[lo:hi]
