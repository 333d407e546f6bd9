"""Valid files of every kind, damaged: each is refused, or gives samples of the form that it promises."""

import gzip
import io
import struct
from pathlib import Path
from random import Random

import numpy as np

from mpidp.data import Request, find, load
from mpidp.data.tables import TableOptions
from mpidp.data.text import TextOptions
from mpidp.data.token_files import BinOptions
from tests.fuzz.bytes_fuzz import mutated

MEMORY = 256 << 20  # bytes that a rank is told it may take


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(compressed: bool, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def seeds() -> dict[str, dict[str, bytes]]:
    """Kind -> the files of one valid set: of one file alone the path is loaded, else the folder."""
    draw = np.random.default_rng(0)
    table = np.round(draw.normal(size=(40, 3)), 3)
    labels = np.arange(40) % 3
    rows = "\n".join(f"{a},{b},{label}" for (a, b, _), label in zip(table, labels, strict=True))
    images, digits = draw.integers(0, 256, (30, 6, 6)).astype(np.uint8), (np.arange(30) % 3).astype(np.uint8)
    text = ("The cat sat on the mat; naïve 漢字.\n" * 40).encode()
    train = {"train-images-idx3-ubyte": idx(images), "train-labels-idx1-ubyte": idx(digits)}
    return {
        "text": {"a.txt": text},
        "tokenized text": {"a.md": text},
        "text folder": {"a.txt": text, "b/c.py": text[:100], "d.rst": b""},
        "token ids": {"a.npy": npy(draw.integers(0, 50, 400).astype(np.uint16))},
        "bin": {"a.bin": draw.integers(0, 50, 400).astype("<u2").tobytes()},
        "llm.c": {"a.bin": struct.pack("<256i", 20240520, 1, 400, *[0] * 253) + bytes(800)},
        "bin folder": {"train.bin": bytes(range(250)) * 2, "val.bin": bytes(range(100))},
        "npy table": {"a.npy": npy(np.column_stack([table, labels]))},
        "npy table of int8": {"a.npy": npy(draw.integers(-100, 100, (40, 3)).astype(np.int8))},
        "npy objects": {"a.npy": npy(np.array([[1, {}]], object))},
        "npz": {"a.npz": npz(False, x=table, y=labels)},
        "packed npz": {
            "a.npz": npz(True, x_train=images, y_train=digits, x_test=images[:5], y_test=digits[:5])
        },
        "csv": {"a.csv": ("a,b,c\n" + rows).encode()},
        "csv without header": {"a.csv": rows.replace("\n", "\r\n").encode()},
        "idx": train | {"t10k-images-idx3-ubyte": idx(images[:9]), "t10k-labels-idx1-ubyte": idx(digits[:9])},
        "packed idx": {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in train.items()},
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


def damaged(rng: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """The set with one of its files damaged, missing, or in another's place."""
    files = dict(files)
    name = rng.choice(list(files))
    kind = rng.random()
    if kind < 0.85 or len(files) == 1:
        files[name] = mutated(rng, files[name])
    elif kind < 0.93:
        files[name] = files[rng.choice(list(files))]
    else:
        del files[name]
    return files


def request(rng: Random) -> Request:
    return Request(
        dtype=rng.choice([np.float32, np.float64]),
        seed=rng.choice([0, 1, 2**70]),
        context=rng.choice([1, 3, 8, 8, 8, 10**9]),
        validation_fraction=rng.choice([0.1, 0.1, 0.5, 1e-9, 1 - 1e-9]),
        memory=MEMORY,
    )


def options(rng: Random, kind: str, path: Path):
    """Of the source that reads this path, at random."""
    made = find(str(path)).Options()
    if isinstance(made, TableOptions):
        made.task = rng.choice(["auto", "auto", "classes", "values"])
        if hasattr(made, "target"):
            made.target = rng.choice([None, None, "a", "b"])
    if isinstance(made, TextOptions) and kind == "tokenized text":
        made.tokenizer = "bpe"
        made.bpe_vocabulary = 260
    if isinstance(made, BinOptions):
        made.token_type = rng.choice(["uint16", "uint16", "uint32"])
    return made


def loaded(rng: Random, kind: str, path: Path, asked: Request) -> None:
    """Load it, look at every sample; the same file gives the same samples."""
    data = load(str(path), options(rng, kind, path), asked)
    assert len(data.fingerprint()) == 16
    schema = data.schema
    for part in (data.train, data.validation):
        assert len(part) >= 1
        x, y = part.batch(np.arange(min(len(part), 500)))
        assert x.shape[1:] == schema.inputs, (x.shape, schema)
        if schema.kind == "values":
            assert y.shape == (len(x), schema.outputs) and np.isfinite(y).all()
        else:
            assert y.dtype == np.int32 and y.min() >= 0 and y.max() < schema.outputs, schema
        if schema.kind == "tokens":
            assert x.min() >= 0 and x.max() < schema.outputs
        else:
            assert x.dtype == asked.dtype and np.isfinite(x).all()
