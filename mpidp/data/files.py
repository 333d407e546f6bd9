"""Reading files so that whatever is wrong with one is said in one line that names it."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mpidp.errors import UserError

LARGEST_TEXT = 1 << 28  # bytes of a file that is read in one go: tokenizers, options

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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
    except ValueError as error:  # a name with a NUL in it
        raise UserError(f"{ascii(str(path))[1:-1]}: cannot be the name of a file: {error}") from None


def regular(path: Path | str) -> os.stat_result:
    """What the system knows of a plain file. A pipe or a device is refused: to read it may block for ever."""
    with reading(path):
        found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: neither a file nor a folder: {KINDS[stat.S_IFMT(found.st_mode)]}")
    return found


def handle(path: Path | str) -> int:
    """The file, open for reading; never waits, whatever it is by now. Raises UserError, also where it is empty."""
    regular(path)
    with reading(path):
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(opened)
    if stat.S_ISREG(found.st_mode) and found.st_size:
        return opened
    os.close(opened)
    raise UserError(
        f"{path}: the file is empty" if stat.S_ISREG(found.st_mode) else f"{path}: no plain file any more"
    )


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked where its name ends in .gz; what goes wrong inside is told as by `reading`."""
    with os.fdopen(handle(path), "rb") as file, reading(path):
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield file


def read_bytes(path: Path) -> bytes:
    """The whole of a small file. Raises UserError where it is empty, or beyond all that such a file may hold."""
    with opened(path) as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise UserError(f"{path}: more than {LARGEST_TEXT >> 20} MiB: not a file of this kind")
    return content
