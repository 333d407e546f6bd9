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

from mpidp.data import rows
from mpidp.data.files import opened
from mpidp.data.rows import COPIES, Array
from mpidp.data.schema import Request
from mpidp.data.stored import Stored, StoredArray, StoredRows
from mpidp.errors import UserError

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGES = (
    ValueError, TypeError, SyntaxError, RecursionError, OverflowError, EOFError, KeyError, NotImplementedError,
    RuntimeError,
)  # fmt: skip
_LOCAL = 30  # bytes of a file's header in an archive, before its name
_PICKLE = "holds Python objects (pickle), which could run code: save plain arrays of numbers"


@dataclass(frozen=True)
class Header:
    """What a .npy file says of its array, whose elements follow the first `skip` bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    skip: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def by_columns(self) -> bool:
        """Whether the elements of a row lie apart from each other."""
        return self.fortran and sum(n > 1 for n in self.shape) > 1


def npy_header(path: Path) -> Header:
    """Of a .npy file that is whole. Raises UserError."""
    with opened(path) as file, _damaged(path, "a .npy"):
        _require_start(path, file, b"\x93NUMPY", "a .npy")
        return _header(path, file, os.fstat(file.fileno()).st_size)


def load_array(path: Path, request: Request) -> Array:
    """The array in a `.npy` file: in memory, or where it lies."""
    header = npy_header(path)
    if _stays(header, request):
        stored = Stored([path])
        return StoredRows(StoredArray(stored, header.dtype, header.skip, 0, header.size), header.shape)
    _require_memory(header.nbytes, f"{path}: its {header.nbytes:,} bytes", "", header, request)
    with opened(path) as file, _damaged(path, "a .npy"):
        file.seek(header.skip)
        return _elements(file, header)


def load_arrays(path: Path, request: Request) -> dict[str, Array]:
    """The arrays in a `.npz` file, by name: in memory, or where they lie."""
    with opened(path) as file, _damaged(path, "a .npz"):
        _require_start(path, file, b"PK", "a .npz")
        with zipfile.ZipFile(file) as archive:
            arrays: dict[str, Array] = {}
            unpacked = 0
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    continue
                with archive.open(member) as part:
                    header = _header(path, part, member.file_size, ".npz", f" {name}")
                    plain = member.compress_type == zipfile.ZIP_STORED
                    if plain and _stays(header, request):
                        arrays[name] = _in_archive(path, file, member, header)
                        continue
                    unpacked += member.file_size
                    cause = "" if plain else "not packed (numpy.savez) "
                    _require_memory(
                        unpacked, f"{path}: its {unpacked:,} bytes, unpacked", cause, header, request
                    )
                    arrays[name] = _elements(part, header)
                    part.read(1)  # has the checksum looked at
            return arrays


def _stays(header: Header, request: Request) -> bool:
    """Whether an array is read where it lies, a few rows at a time, and not held."""
    need = COPIES * 8 * header.size
    much = header.nbytes > rows.LARGEST or (request.memory is not None and need > request.memory)
    return much and len(header.shape) > 0 and not header.by_columns


def _require_memory(need: int, what: str, cause: str, header: Header, request: Request) -> None:
    cure = f"save it {cause}{'in rows (numpy.ascontiguousarray) ' if header.by_columns else ''}"
    cure = f"{cure}to have it read where it lies, or " if cure != "save it " else ""
    request.require_memory(need, what, f"{cure}take fewer rows, fewer ranks a host")


def _in_archive(path: Path, file: IO[bytes], member: zipfile.ZipInfo, header: Header) -> StoredRows:
    """An array that lies in an archive as it is; the header of its file there says where."""
    at = member.header_offset
    local = os.pread(file.fileno(), _LOCAL, at)
    if len(local) < _LOCAL or local[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"no header of {member.filename} at byte {at}")
    at += _LOCAL + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if at + member.file_size > os.fstat(file.fileno()).st_size:
        raise zipfile.BadZipFile(f"{member.filename} is truncated")
    before = zlib.crc32(os.pread(file.fileno(), header.skip, at))
    elements = StoredArray(Stored([path]), header.dtype, at + header.skip, 0, header.size)
    return StoredRows(elements, header.shape, (before, member.CRC, f"{path}: {member.filename}"))


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
