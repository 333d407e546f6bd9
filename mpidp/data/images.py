"""Images in IDX files, the format of MNIST and Fashion-MNIST."""

import math
from pathlib import Path

import numpy as np

from mpidp.data import rows
from mpidp.data.files import opened, reading
from mpidp.data.rows import Array, Rows
from mpidp.data.schema import Data, Request
from mpidp.data.stored import Stored, StoredArray, StoredRows
from mpidp.data.tables import table_data
from mpidp.errors import UserError
from mpidp.options import NoOptions

_UNSIGNED_BYTE = 0x08
_BLOCK = 1 << 24  # bytes read at a time


def idx_folder(path: Path, options: NoOptions, request: Request) -> Data:
    """train-images-idx3-ubyte and train-labels-idx1-ubyte, each plain or .gz; validation: t10k-… if there.

    x: (rows, columns, 1) in [0, 1].
    """
    train = _part(path, "train", request)
    test = _part(path, "t10k", request) if _find(path, "t10k", "images", 3) else None

    def place(array: str, index: tuple[int, ...]) -> str:
        return f"{'t10k' if array.endswith('test') else 'train'} label {index[0]}"

    return table_data(str(path), train, test, request, "classes", 1 / 255, place)


def has_idx(folder: Path) -> bool:
    """Whether this folder is one for `idx_folder`."""
    return any(_find(folder, part, "images", 3) for part in ("train", "t10k"))


def read_idx(path: Path, dimensions: int, request: Request) -> Array:
    """The uint8 array in an IDX file: in memory, or where it lies.

    Layout: bytes 0, 0, type (8: unsigned byte), number of dimensions; each dimension in 4 bytes, the highest
    first; the elements (Y. LeCun, C. Cortes, C. Burges: The MNIST database).
    """
    with opened(path) as file:
        kind = file.read(4)
        if len(kind) < 4 or kind[:2] != b"\0\0" or kind[2] != _UNSIGNED_BYTE or kind[3] != dimensions:
            raise UserError(
                f"{path}: begins with {kind.hex(' ')}, an IDX file of bytes in {dimensions} dimensions with "
                f"00 00 08 {dimensions:02x}: not such a file, or damaged"
            )
        header = file.read(4 * dimensions)
        shape = tuple(int(n) for n in np.frombuffer(header.ljust(4 * dimensions, b"\0"), ">u4"))
        size, skip = math.prod(shape), 4 + 4 * dimensions
        if path.suffix != ".gz":
            stored = Stored([path])
            much = size > rows.LARGEST or (request.memory is not None and 2 * size > request.memory)
            if much and len(stored) == skip + size:
                return StoredRows(StoredArray(stored, np.dtype(np.uint8), skip, 0, size), shape)
        # No more than is there, and no more than is said: neither a header nor what is packed is to be trusted.
        content = bytearray()
        while len(content) <= size and (block := file.read(min(_BLOCK, size + 1 - len(content)))):
            content += block
            request.require_memory(
                2 * len(content),
                f"{path}: its images",
                "unpack it (gunzip) to have it read where it lies, or take fewer ranks a host",
            )
    if len(header) < 4 * dimensions or len(content) != size:
        follow = f"more than {size}" if len(content) > size else str(len(content))
        raise UserError(
            f"{path}: its header says {' x '.join(map(str, shape))} bytes, {follow} follow: truncated or "
            "damaged; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _part(folder: Path, part: str, request: Request) -> Rows:
    arrays = []
    for what, dimensions in (("images", 3), ("labels", 1)):
        path = _find(folder, part, what, dimensions)
        if path is None:
            raise UserError(
                f"{folder}: no {part}-{what}-idx{dimensions}-ubyte (or .gz) beside the other IDX files"
            )
        arrays.append(read_idx(path, dimensions, request))
    return Rows(*arrays)


def _find(folder: Path, part: str, what: str, dimensions: int) -> Path | None:
    """The plain file before the packed one; some copies have a dot for the second dash."""
    with reading(folder):
        for dash in "-.":
            for suffix in ("", ".gz"):
                path = folder / f"{part}-{what}{dash}idx{dimensions}-ubyte{suffix}"
                if path.exists():
                    return path
    return None
