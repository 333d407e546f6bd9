"""Tables in files: .npz, .npy, .csv."""

import csv
import io
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from mpidp.data.files import opened, regular
from mpidp.data.npy import load_array, load_arrays
from mpidp.data.rows import COPIES, TableRows
from mpidp.data.schema import Data, Request
from mpidp.data.tables import TableOptions, table_data
from mpidp.errors import UserError
from mpidp.options import option

_BLOCK = 1 << 22  # bytes read at a time
_MARKS = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))


@dataclass
class CsvOptions(TableOptions):
    """Which column is the target."""

    target: str | None = option(
        None, "name of the target's column (needs a header line); the last when not given"
    )


def npz_file(path: Path, options: TableOptions, request: Request) -> Data:
    """Arrays x and y; or x_train and y_train, and, for a validation part of its own, x_test and y_test."""
    arrays = load_arrays(path, request)
    names = ("x", "y") if "x" in arrays else ("x_train", "y_train")
    tests = [n for n in ("x_test", "y_test") if n in arrays and names[0] == "x_train"]
    missing = [n for n in names + (("x_test", "y_test") if tests else ()) if n not in arrays]
    if missing:
        raise UserError(
            f"{path}: no array {' and '.join(missing)}; it holds: {', '.join(arrays) or 'nothing'}; needed are x and "
            "y, or x_train, y_train and, if wanted, x_test, y_test"
        )
    train = arrays[names[0]], arrays[names[1]]
    test = (arrays["x_test"], arrays["y_test"]) if tests else None
    return table_data(str(path), train, test, request, options.task)


def npy_table(path: Path, options: TableOptions, request: Request) -> Data:
    """Rows of numbers, the last of each being its target."""
    table = load_array(path, request)
    if len(table.shape) != 2 or table.shape[1] < 2:
        raise UserError(
            f"{path}: shape {table.shape}, type {table.dtype}: needed are (rows, 2 or more columns) of numbers, the "
            "last column being the target; or one dimension of integers, as token ids"
        )
    last = table.shape[1] - 1

    def place(array: str, index: tuple[int, ...]) -> str:
        return f"row {index[0]}, column {index[1] if array == 'x' else last}"

    return table_data(str(path), TableRows(table), None, request, options.task, place=place)


def csv_file(path: Path, options: CsvOptions, request: Request) -> Data:
    """Numbers with commas between them; a first line without any number names the columns."""
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path}: no line with numbers")
    header = _header(path, *first)
    width = len(first[1])
    if width < 2:
        between = [
            f": with {name} between cells? Commas are needed" for mark, name in _MARKS if mark in first[1][0]
        ]
        raise UserError(
            f"{path}: one column ('{_short(first[1][0])}'): at least one feature and a target are needed"
            + "".join(between[:1])
        )
    target = _target(path, header, options.target, width)
    names = header or [str(c + 1) for c in range(width)]
    _require_memory(path, width, first[1], request)
    lines, cells = array("q"), array("d")
    for line, row in rows if header else chain([first], rows):
        lines.append(line)
        cells.extend(_numbers(path, line, row, names))
    if not lines:
        raise UserError(f"{path}: a header line and no rows")
    numbers = np.frombuffer(cells).reshape(-1, width)
    features = [c for c in range(width) if c != target]

    def place(array: str, index: tuple[int, ...]) -> str:
        return f"line {lines[index[0]]}, column {names[features[index[1]] if array == 'x' else target]}"

    return table_data(
        str(path), (numbers[:, features], numbers[:, target]), None, request, options.task, place=place
    )


def _require_memory(path: Path, width: int, row: list[str], request: Request) -> None:
    """By the length of one row: as float64 the table is held at most `COPIES` times at once."""
    rows = regular(path).st_size // (sum(map(len, row)) + width) + 1
    request.require_memory(
        COPIES * 8 * width * rows,
        f"{path}: about {rows:,} rows of {width} numbers",
        "take fewer rows, fewer ranks a host, or a .npy file",
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, stripped cells) of the lines that are not blank."""
    with opened(path) as file:
        reader = csv.reader(_lines(path, file))
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}") from None


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    """The file's lines as text, some of it at a time, whatever ends them."""
    at, rest, block = 0, b"", b"more"
    while block:
        block = file.read(_BLOCK)
        content = rest + block
        if at == 0 and content.startswith(BOM_UTF8):
            at, content = len(BOM_UTF8), content[len(BOM_UTF8) :]
        # Where no line feed is, old Macs' line ends may be.
        done = (content.rfind(b"\n") + 1 or content[:-1].rfind(b"\r") + 1) if block else len(content)
        if not done and len(content) > _BLOCK:
            raise UserError(
                f"{path}: byte {at} begins a line of more than {_BLOCK:,} bytes: is this a CSV file?"
            )
        text = _text(path, content[:done], at)
        yield from io.StringIO(text, newline="")
        at, rest = at + done, content[done:]


def _text(path: Path, content: bytes, at: int) -> str:
    wrong = content.find(0)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        wrong = error.start if wrong < 0 else min(wrong, error.start)
    if wrong < 0:
        return text
    utf16 = wrong < 2 or content[wrong] == 0
    name = "UTF-16" if utf16 else "LATIN1"
    raise UserError(
        f"{path}: byte {at + wrong} is no UTF-8 text: is this a CSV file? If it is one in {name}, convert it "
        f"(iconv -f {name} -t UTF-8)"
    )


def _header(path: Path, line: int, cells: list[str]) -> list[str] | None:
    """The first line, if it names the columns: numbers among the names are a mistake, which must not cost a row."""
    numbers = [_number(cell) is not None for cell in cells]
    if all(numbers):
        return None
    if any(numbers):
        wrong, right = (_short(cells[numbers.index(which)]) for which in (False, True))
        raise UserError(
            f"{path}: line {line}: '{wrong}' is no number and '{right}' is one: neither a header nor a row of numbers"
        )
    return cells


def _target(path: Path, header: list[str] | None, name: str | None, width: int) -> int:
    if name is None:
        return width - 1
    if header is None:
        raise UserError(f"--target {name}: {path} has no header line: its last column is the target")
    if header.count(name) != 1:
        many = "no such column" if name not in header else f"{header.count(name)} columns of this name"
        raise UserError(f"--target {name}: {many} in {path}; it has: {_short(', '.join(header))}")
    return header.index(name)


def _numbers(path: Path, line: int, cells: list[str], names: list[str]) -> list[float]:
    numbers = [_number(cell) for cell in cells]
    if None in numbers:
        at = numbers.index(None)
        column = _short(names[at]) if at < len(names) else at + 1
        what = f"'{_short(cells[at])}' is no number" if cells[at] else "the cell is empty"
        raise UserError(f"{path}: line {line}, column {column}: {what}")
    if len(numbers) != len(names):
        raise UserError(f"{path}: line {line} has {len(numbers)} cells, the first line has {len(names)}")
    return numbers  # type: ignore[return-value]


def _number(cell: str) -> float | None:
    """As Python reads it, but for its own digits in groups (1_000), which no table means."""
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"
