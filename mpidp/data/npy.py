"""NumPy's own files, `.npy` and `.npz`, read without trust in what their headers say.

The format is that of NEP 1 (Kern 2007). Of the header only type, shape and order are taken; Python objects (pickle) are
refused, not run; and before memory is asked for, the size that a header states is held against that of the file.
"""

import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mpidp.data.files import opened
from mpidp.data.schema import Request
from mpidp.errors import UserError

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGES = (
    ValueError, TypeError, SyntaxError, RecursionError, OverflowError, EOFError, KeyError, NotImplementedError,
    RuntimeError,
)  # fmt: skip
_PICKLE = "holds Python objects (pickle), which could run code: save plain arrays of numbers"


@dataclass(frozen=True)
class Header:
    """What a .npy file says of its array, whose elements follow the first `skip` bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    skip: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(path: Path) -> Header:
    """Of a .npy file that is whole. Raises UserError."""
    with opened(path) as file, _damaged(path, "a .npy"):
        _require_start(path, file, b"\x93NUMPY", "a .npy")
        return _header(path, file, os.fstat(file.fileno()).st_size)


def load_array(path: Path, request: Request) -> np.ndarray:
    """The array in a `.npy` file."""
    header = npy_header(path)
    request.require_memory(header.nbytes, f"{path}: its {header.nbytes:,} bytes", "take fewer ranks a host")
    with opened(path) as file, _damaged(path, "a .npy"):
        file.seek(header.skip)
        return _elements(file, header)


def load_arrays(path: Path, request: Request) -> dict[str, np.ndarray]:
    """The arrays in a `.npz` file, by name."""
    with opened(path) as file, _damaged(path, "a .npz"):
        _require_start(path, file, b"PK", "a .npz")
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            size = sum(member.file_size for member in members)
            request.require_memory(
                size,
                f"{path}: its {size:,} bytes, unpacked",
                "take fewer rows, fewer ranks a host, or a .npy file",
            )
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as part:
                    arrays[name] = _elements(part, _header(path, part, member.file_size, ".npz", f" {name}"))
                    part.read(1)  # has the checksum looked at
            return arrays


def _header(path: Path, file: IO[bytes], size: int, kind: str = ".npy", what: str = "") -> Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise UserError(
                f"{path}:{what} is of version {version[0]}.{version[1]}: plain numbers are needed"
            )
        shape, fortran, dtype = _READERS[version](file)
    if dtype.hasobject:
        raise UserError(f"{path}: {_PICKLE}")
    header = Header(shape, fortran, dtype, file.tell())
    if min(shape, default=0) < 0 or header.skip + header.nbytes != size:
        raise UserError(
            f"{path}: damaged {kind} file:{what} its header says {shape} of {dtype}, {header.nbytes:,} bytes, and "
            f"{max(0, size - header.skip):,} follow"
        )
    return header


def _elements(file: IO[bytes], header: Header) -> np.ndarray:
    array = np.empty(math.prod(header.shape), header.dtype)
    view = memoryview(array.view(np.uint8)) if array.nbytes else memoryview(b"")
    done = 0
    while done < len(view):
        part = file.read(min(len(view) - done, 1 << 24))
        if not part:
            raise ValueError(f"only {done:,} of {len(view):,} bytes are there")
        view[done : done + len(part)] = part
        done += len(part)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


def _require_start(path: Path, file: IO[bytes], magic: bytes, kind: str) -> None:
    start = file.read(len(magic))
    if start != magic:
        raise UserError(f"{path}: not {kind} file: it begins with {start.hex(' ')}, not {magic.hex(' ')}")
    file.seek(0)


@contextmanager
def _damaged(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (*_DAMAGES, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:
        raise UserError(f"{path}: damaged {kind[2:]} file: {' '.join(str(error).split())[:200]}") from None
