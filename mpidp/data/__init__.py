"""Where samples come from: `SOURCES` by name, `PATHS` by kind of file; who works on which: `split.SPLITS`."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from mpidp.data import bundled, images, synthetic, table_files, text, token_files
from mpidp.data.files import reading, regular
from mpidp.data.npy import npy_header
from mpidp.data.schema import Data, Dataset, Request, Schema, Source
from mpidp.data.tables import TableOptions
from mpidp.errors import RunError, UserError
from mpidp.options import NoOptions

__all__ = ["DEFAULT", "PATHS", "SOURCES", "Data", "Dataset", "Request", "Schema", "Source", "find", "load"]

DEFAULT = "python-docs"

SOURCES: dict[str, Source] = {
    "python-docs": Source("the reference manual inside Python", text.TextOptions, text.python_docs),
    "python-source": Source("the standard library's sources", text.SourceCodeOptions, text.python_source),
    "digits": Source("8 x 8 images of digits (scikit-learn)", NoOptions, bundled.digits),
    "diabetes": Source("a regression on 442 patients (scikit-learn)", NoOptions, bundled.diabetes),
    "breast-cancer": Source("two classes of 569 tumours (scikit-learn)", NoOptions, bundled.breast_cancer),
    "synthetic-regression": Source("y = x·w + b + noise", synthetic.RegressionOptions, synthetic.regression),
    "synthetic-classes": Source("Gaussian clouds", synthetic.ClassesOptions, synthetic.classes),
}

# As in SOURCES, but `load` takes the path first.
PATHS: dict[str, Source] = {
    "text-file": Source("any file, as bytes of text", text.TextOptions, text.text_file),
    "text-folder": Source("the text files of a folder", text.TextOptions, text.text_folder),
    "idx-folder": Source("a folder with MNIST's IDX files", NoOptions, images.idx_folder),
    "token-file": Source(
        ".npy with integers in one dimension", token_files.TokenOptions, token_files.token_file
    ),
    "bin": Source(".bin with token ids", token_files.BinOptions, token_files.bin_file),
    "bin-folder": Source(
        "a folder with train.bin and val.bin", token_files.BinOptions, token_files.bin_folder
    ),
    "npy": Source(".npy with a table, last column the target", TableOptions, table_files.npy_table),
    "npz": Source(".npz with x and y", TableOptions, table_files.npz_file),
    "csv": Source(".csv with numbers", table_files.CsvOptions, table_files.csv_file),
}


def find(name_or_path: str) -> Source:
    """The source of this name, or the one that reads this path; raises UserError where there is neither."""
    if name_or_path in SOURCES:
        return SOURCES[name_or_path]
    path = Path(os.path.expanduser(name_or_path))
    if not name_or_path or "\0" in name_or_path or not os.path.lexists(path):
        if os.sep in name_or_path:
            with reading(path):
                path.stat()  # says why: not there, or not permitted to look
        raise UserError(
            f"--data {name_or_path}: no such data source or file; known: {', '.join(SOURCES)}, "
            "and the path of a file or folder"
        )
    kind = PATHS[_kind(path)]
    return Source(kind.summary, kind.Options, partial(kind.load, path))


def load(name_or_path: str, options: Any, request: Request) -> Data:
    """The data of that name or path; `options`: of its source's `Options`, or None for the defaults.

    Raises UserError for whatever is wrong with the source or its options, and where memory does not hold it.
    """
    source = find(name_or_path)
    try:
        return source.load(source.Options() if options is None else options, request)
    except RunError as error:  # a file that changed while it was looked at
        raise UserError(str(error)) from None
    except MemoryError as error:
        raise UserError(f"--data {name_or_path}: too much for this machine's memory: {error}") from None


def _kind(path: Path) -> str:
    with reading(path):
        folder = path.is_dir()
    if folder:
        if images.has_idx(path):
            return "idx-folder"
        return "bin-folder" if token_files.has_bins(path) else "text-folder"
    regular(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        header = npy_header(path)
        return "token-file" if len(header.shape) == 1 and header.dtype.kind in "iu" else "npy"
    if suffix in (".npz", ".csv", ".bin"):
        return suffix[1:]
    if "idx3-ubyte" in path.name or "idx1-ubyte" in path.name:
        raise UserError(f"--data {path}: give the folder that holds this IDX file and its companions")
    return "text-file"
