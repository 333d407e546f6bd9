"""Arrays in a safetensors file: hashed on the way out, and read as if somebody had meant harm.

The form is that of github.com/huggingface/safetensors: eight bytes that say how long the header is, a header of JSON
(name -> type, shape, place), then the data. Written and read here, because the library copies all arrays while it holds
the interpreter's lock, for which training would wait; it reads these files as well.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
NAMES = {name: code for code, name in TYPES.items()}

LONGEST_HEADER = 100 << 20  # bytes; the library's own limit

PIECE = 4 << 20
"""Bytes that are hashed and written at a time: both let other threads run meanwhile."""


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Write contiguous arrays to a file, on disk when this returns; its SHA-256 in hexadecimal, and its bytes.

    The hash is of what was to be written, so that a file that reads otherwise is found out. Raises OSError.
    """
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        put(file, digest, memoryview(len(text).to_bytes(8, "little") + text))
        for array in arrays.values():
            put(file, digest, memoryview(array.reshape(-1).view(np.uint8)))
        os.fsync(file.fileno())
    return digest.hexdigest(), 8 + len(text) + end


def put(file: Any, digest: Any, raw: memoryview) -> None:
    """Write all of it and take it into the hash."""
    for start in range(0, len(raw), PIECE):
        piece = raw[start : start + PIECE]
        digest.update(piece)
        while piece:  # a call may write a part, as much as a full disk still takes
            piece = piece[file.write(piece) :]


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file. Raises OSError, and ValueError for what is no such file: nothing in it is believed."""
    with opened(path) as file:
        arrays = {}
        for name, dtype, shape, start, end in entries(file):
            array = np.empty(end - start, np.uint8)
            file.seek(start)
            if file.readinto(memoryview(array)) != end - start:
                raise ValueError("it ends in the middle of its data")
            arrays[name] = array.view(dtype).reshape(shape)
        return arrays


def opened(path: Path) -> BinaryIO:
    """The file, open; raises OSError where it is none: opening a pipe would wait for ever."""
    if not path.is_file():
        raise FileNotFoundError("no such file")
    return path.open("rb")


def entries(file: BinaryIO) -> list[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    """(name, type, shape, first byte, end) of every array, each within the file and as long as its shape says."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"its header is to be {length:,} bytes long, of {size:,} in all")
    header = parsed(file.read(length))
    header.pop("__metadata__", None)
    found = []
    for name, about in header.items():
        try:
            dtype, shape = np.dtype(TYPES[about["dtype"]]), tuple(about["shape"])
            start, end = (8 + length + int(offset) for offset in about["data_offsets"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"its header has no type, shape and place of {name[:80]}") from None
        whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 40 for n in shape)
        if not whole or len(shape) > 32 or not 8 + length <= start <= end <= size:
            raise ValueError(f"{name[:80]} lies outside of the file")
        if math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError(f"{name[:80]} has {end - start:,} bytes, which its shape is not")
        found.append((name, dtype, shape, start, end))
    ends = [8 + length, *sorted(end for *_, end in found)]
    if sorted(start for *_, start, _ in found) != ends[:-1] or ends[-1] != size:
        raise ValueError("its arrays overlap, or leave gaps")
    return found


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else, however deep it is nested."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal. Raises OSError."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the file's or folder's content on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
