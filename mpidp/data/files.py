"""Reading files so that whatever is wrong with one is said in one line that names it."""

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mpidp.errors import UserError


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turns the operating system's refusals, and damaged compression, into UserErrors that name `path`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied: this user may not read it") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked where its name ends in .gz; an empty one is a UserError."""
    with reading(path):
        content = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    if not content:
        raise UserError(f"{path}: the file is empty")
    return content


def map_bytes(path: Path) -> np.ndarray:
    """The file's bytes as a read-only uint8 array that is mapped, so that only what is used is in memory."""
    with reading(path):
        if os.path.getsize(path) == 0:
            raise UserError(f"{path}: the file is empty")
        return np.asarray(np.memmap(path, np.uint8, mode="r"))


def load_array(path: Path) -> np.ndarray:
    """The array in a `.npy` file, mapped; Python objects (pickle) are refused, not run."""
    with _numpy_file(path, b"\x93NUMPY", "a .npy"):
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a `.npz` file by name; Python objects (pickle) are refused, not run."""
    with _numpy_file(path, b"PK", "a .npz"), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@contextmanager
def _numpy_file(path: Path, magic: bytes, kind: str) -> Iterator[None]:
    """Looks at the first bytes: NumPy takes whatever it does not know for a pickle. Then as `reading`."""
    with reading(path):
        with open(path, "rb") as file:
            start = file.read(len(magic))
        if not start:
            raise UserError(f"{path}: the file is empty")
        if start != magic:
            raise UserError(f"{path}: not {kind} file: it begins with {start.hex(' ')}, not {magic.hex(' ')}")
        try:
            yield
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if "object" in str(error).lower():
                raise UserError(
                    f"{path}: holds Python objects (pickle), which could run code: save plain arrays of numbers"
                ) from None
            raise UserError(f"{path}: damaged {kind[2:]} file: {' '.join(str(error).split())}") from None
