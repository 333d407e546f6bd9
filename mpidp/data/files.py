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
    with reading(path):
        if os.path.getsize(path) == 0:
            raise UserError(f"{path}: the file is empty")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(_refusal(path, "a .npy", error)) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: not a .npy file but a .npz: name it so")
    return np.asarray(array)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a `.npz` file by name; Python objects (pickle) are refused, not run."""
    with reading(path):
        if os.path.getsize(path) == 0:
            raise UserError(f"{path}: the file is empty")
        try:
            archive = np.load(path, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UserError(f"{path}: not a .npz file but a .npy: name it so")
            with archive:
                return {name: archive[name] for name in archive.files}
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(_refusal(path, "a .npz", error)) from None


def _refusal(path: Path, kind: str, error: Exception) -> str:
    if "pickled data" in str(error):  # NumPy takes whatever it does not know for a pickle
        return f"{path}: not {kind} file (a pickle would not be loaded either: it could run code)"
    if "object" in str(error).lower():
        return f"{path}: holds Python objects (pickle), which could run code: save plain arrays of numbers"
    return f"{path}: not {kind} file, or damaged: {error}"
