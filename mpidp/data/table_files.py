"""Tables in files: .npz, .npy, .csv."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpidp.data.files import load_array, load_arrays, read_bytes
from mpidp.data.schema import Data, Request
from mpidp.data.tables import TableOptions, table_data
from mpidp.errors import UserError
from mpidp.options import option


@dataclass
class CsvOptions(TableOptions):
    """Which column is the target."""

    target: str | None = option(
        None, "name of the target's column (needs a header line); the last when not given"
    )


def npz_file(path: Path, options: TableOptions, request: Request) -> Data:
    """Arrays x and y; or x_train and y_train, and, for a validation part of its own, x_test and y_test."""
    arrays = load_arrays(path)
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
    table = load_array(path)
    if table.ndim != 2 or table.shape[1] < 2:
        raise UserError(
            f"{path}: shape {table.shape}, type {table.dtype}: needed are (rows, 2 or more columns) of numbers, the "
            "last column being the target; or one dimension of integers, as token ids"
        )
    last = table.shape[1] - 1

    def place(array: str, index: tuple[int, ...]) -> str:
        return f"row {index[0]}, column {index[1] if array == 'x' else last}"

    return table_data(str(path), (table[:, :-1], table[:, -1]), None, request, options.task, place=place)


def csv_file(path: Path, options: CsvOptions, request: Request) -> Data:
    """Numbers with commas between them; a first line without any number names the columns."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is no UTF-8 text: is this a CSV file?") from None
    rows = _rows(path, text)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path}: no line with numbers")
    header = _header(path, *first)
    width = len(first[1])
    if width < 2:
        raise UserError(f"{path}: one column ('{first[1][0]}'): at least one feature and a target are needed")
    target = _target(path, header, options.target, width)
    names = header or [str(c + 1) for c in range(width)]
    lines, table = [], []
    for line, cells in [] if header else [first]:
        lines.append(line)
        table.append(_numbers(path, line, cells, names))
    for line, cells in rows:
        lines.append(line)
        table.append(_numbers(path, line, cells, names))
    if not table:
        raise UserError(f"{path}: a header line and no rows")
    numbers = np.array(table)
    features = [c for c in range(width) if c != target]

    def place(array: str, index: tuple[int, ...]) -> str:
        return f"line {lines[index[0]]}, column {names[features[index[1]] if array == 'x' else target]}"

    return table_data(
        str(path), (numbers[:, features], numbers[:, target]), None, request, options.task, place=place
    )


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, stripped cells) of the lines that are not blank."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}") from None


def _header(path: Path, line: int, cells: list[str]) -> list[str] | None:
    """The first line, if it names the columns: numbers among the names are a mistake, which must not cost a row."""
    numbers = [_number(cell) is not None for cell in cells]
    if all(numbers):
        return None
    if any(numbers):
        wrong, right = cells[numbers.index(False)], cells[numbers.index(True)]
        raise UserError(
            f"{path}: line {line}: '{wrong}' is no number and '{right}' is one: neither a header nor a row of numbers"
        )
    return cells


def _target(path: Path, header: list[str] | None, name: str | None, width: int) -> int:
    if name is None:
        return width - 1
    if header is None:
        raise UserError(f"--target {name}: {path} has no header line: its last column is the target")
    if name not in header:
        raise UserError(f"--target {name}: no such column in {path}; it has: {', '.join(header)}")
    return header.index(name)


def _numbers(path: Path, line: int, cells: list[str], names: list[str]) -> list[float]:
    try:
        numbers = list(map(float, cells))
    except ValueError:
        at = [_number(cell) is None for cell in cells].index(True)
        column = names[at] if at < len(names) else at + 1
        what = f"'{cells[at]}' is no number" if cells[at] else "the cell is empty"
        raise UserError(f"{path}: line {line}, column {column}: {what}") from None
    if len(numbers) != len(names):
        raise UserError(f"{path}: line {line} has {len(numbers)} cells, the first line has {len(names)}")
    return numbers


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
