"""Tables and images that are read where they lie: the same samples, and the same words for what is wrong."""

import os
import struct

import numpy as np
import pytest

from mpidp.data import Request, load, rows, tables
from mpidp.data.columns import Moments
from mpidp.data.tables import Selected, TableOptions
from mpidp.errors import RunError, UserError

RNG = np.random.default_rng(5)
N = 210


def write_idx(folder, part, n):
    images = RNG.integers(0, 256, (n, 5, 4), np.uint8)
    for what, array in (("images-idx3", images), ("labels-idx1", (np.arange(n) % 3).astype(np.uint8))):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"{part}-{what}-ubyte").write_bytes(header + array.tobytes())
    return folder


def table(y, kind="<f8"):
    x = RNG.normal(3, 2, (N, 4)) * [1, 100, 0.01, 0] + [0, 0, 0, 0.1]
    return np.column_stack([x, y]).astype(kind)


def features(path, y=None, kind="<f4", **more):
    x = RNG.normal(size=(N, 4)).astype(kind)
    np.savez(path, x=x, y=np.arange(N) % 3 if y is None else y, **more)
    return path


def parts(path, x, kind=np.int64):
    y = (np.arange(N) % 3).astype(kind)
    np.savez(path, x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
    return path


FILES = {
    "values": (lambda f: np.save(f / "a.npy", table(RNG.normal(size=N))), "a.npy"),
    "classes, highest byte first": (lambda f: np.save(f / "a.npy", table(np.arange(N) % 4, ">f4")), "a.npy"),
    "integers": (lambda f: np.save(f / "a.npy", RNG.integers(0, 3, (N, 6), np.int16)), "a.npy"),
    "x and y": (lambda f: features(f / "a.npz"), "a.npz"),
    "several values": (lambda f: features(f / "a.npz", RNG.normal(size=(N, 2))), "a.npz"),
    "one column each": (lambda f: np.savez(f / "a.npz", x=np.arange(N), y=RNG.normal(size=(N, 1))), "a.npz"),
    "images of bytes": (lambda f: parts(f / "a.npz", RNG.integers(0, 256, (N, 3, 2), np.uint8)), "a.npz"),
    "images in colour": (lambda f: parts(f / "a.npz", RNG.normal(size=(N, 3, 2, 3)), "<f4"), "a.npz"),
    "idx": (lambda f: (write_idx(f, "train", N), write_idx(f, "t10k", 40)), ""),
    "idx without a test part": (lambda f: write_idx(f, "train", N), ""),
}


def make(folder, name):
    write, file = FILES[name]
    write(folder)
    return str(folder / file)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("many", [False, True])
def test_the_same_samples_as_from_memory(tmp_path, monkeypatch, name, many):
    """In every bit, whichever way a rank has them; `many`: of so many rows that their order is computed."""
    monkeypatch.setattr(rows, "BLOCK", 100)  # elements, so that there are many blocks
    if many:
        monkeypatch.setattr(tables, "MANY", 100)
    path, request = make(tmp_path, name), Request(seed=3, validation_fraction=0.2)
    held = load(path, None, request)
    monkeypatch.setattr(rows, "LARGEST", 0)
    stored = load(path, None, request)
    assert isinstance(stored.train, Selected) and not isinstance(held.train, Selected)
    assert stored.schema == held.schema and stored.fingerprint() == held.fingerprint()
    for ours, theirs in ((stored.train, held.train), (stored.validation, held.validation)):
        assert len(ours) == len(theirs)
        assert (ours.labels is None) == (theirs.labels is None)
        assert ours.labels is None or (ours.labels == theirs.labels).all()
        for indices in (np.arange(len(ours)), np.array([7, 3, 3]), np.arange(0)):
            for array, other in zip(ours.batch(indices), theirs.batch(indices), strict=True):
                assert array.dtype == other.dtype and array.flags.c_contiguous and array.flags.writeable
                assert array.shape == other.shape and array.tobytes() == other.tobytes()


def test_no_row_is_in_both_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MANY", 100)
    monkeypatch.setattr(rows, "LARGEST", 0)
    np.save(tmp_path / "a.npy", np.column_stack([np.zeros(N), np.arange(N) + 0.5]))
    data = load(str(tmp_path / "a.npy"), None, Request(validation_fraction=0.3))
    found = [part.batch(np.arange(len(part)))[1][:, 0] for part in (data.train, data.validation)]
    assert len(found[1]) == 63 and sorted(np.concatenate(found)) == (np.arange(N) + 0.5).tolist()


def test_moments_of_blocks_are_those_of_the_whole():
    x = RNG.normal(1e4, 1, (1000, 3)) * [1, 1e-3, 1e6]
    moments = Moments(3)
    for block in np.split(x, [1, 1, 17, 400, 999]):
        moments.add(block)
    assert np.allclose(moments.mean, x.mean(axis=0), rtol=1e-14, atol=0)
    assert np.allclose(moments.deviation(), x.std(axis=0), rtol=1e-10, atol=0)


def test_little_memory_has_files_read_where_they_lie(tmp_path):
    np.save(tmp_path / "a.npy", table(RNG.normal(size=N)))
    need = rows.COPIES * 8 * N * 5
    for memory, kind in ((need, tables.Arrays), (need - 1, Selected)):
        assert type(load(str(tmp_path / "a.npy"), None, Request(memory=memory)).train) is kind


REFUSED = {
    "packed": (lambda f: np.savez_compressed(f / "a.npz", x=np.ones((N, 9)), y=np.arange(N)), "a.npz"),
    "by columns": (lambda f: np.save(f / "a.npy", np.asfortranarray(np.ones((N, 9)))), "a.npy"),
    "by columns, in an archive": (
        lambda f: np.savez(f / "a.npz", x=np.asfortranarray(np.ones((N, 9))), y=np.arange(N)),
        "a.npz",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_where_it_lies_says_what_can(tmp_path, name):
    write, file = REFUSED[name]
    write(tmp_path)
    words = "not packed" if name == "packed" else "in rows"
    with pytest.raises(
        UserError, match=rf"{file}: .* more than .*: save it {words}.* to have it read where it"
    ):
        load(str(tmp_path / file), None, Request(memory=1000))


def test_a_checksum_is_looked_at_in_passing(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST", 0)
    path = tmp_path / "a.npz"
    np.savez(path, x=RNG.normal(size=(10 * N, 4)), y=np.arange(10 * N) % 3)
    content = bytearray(path.read_bytes())
    content[content.index(b"x.npy") + 100 * N] ^= 1  # in the midst of the elements of x
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: x\.npy does not fit its checksum: damaged"):
        load(str(tmp_path / "a.npz"), None, Request())


@pytest.mark.parametrize("how, words", [("flipped", "was written to since"), ("shrunk", "has shrunk from")])
@pytest.mark.parametrize("name", ["values", "x and y", "idx"])
def test_a_file_that_changes_under_a_run_is_one_line(tmp_path, monkeypatch, how, words, name):
    monkeypatch.setattr(rows, "LARGEST", 0)
    path = make(tmp_path, name)
    file = path if os.path.isfile(path) else str(tmp_path / "train-images-idx3-ubyte")
    os.utime(file, ns=(0, 0))
    data = load(path, None, Request())
    with open(file, "r+b") as spoiled:
        spoiled.seek(500)
        spoiled.write(b"x") if how == "flipped" else spoiled.truncate(500)
    with pytest.raises(RunError, match=words):
        data.train.batch(np.arange(len(data.train)))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_no_finite_number_is_located(tmp_path, monkeypatch, value):
    monkeypatch.setattr(rows, "LARGEST", 0)
    monkeypatch.setattr(rows, "BLOCK", 40)
    for column, what in ((2, "row 77, column 2"), (4, "row 77, column 4")):
        bad = table(np.arange(N) % 3)
        bad[77, column] = value
        np.save(tmp_path / "a.npy", bad)
        with pytest.raises(UserError, match=rf"a\.npy: {what} is {value}: remove"):
            load(str(tmp_path / "a.npy"), None, Request())


@pytest.mark.parametrize(
    "y, words",
    [
        (
            np.where(np.arange(N) == 150, -1, np.arange(N) % 3),
            r"row 150, column 4 is -1\.0, no class of 0, 1",
        ),
        (np.where(np.arange(N) == 150, 0.5, np.arange(N) % 3), r"row 150, column 4 is 0\.5, no class"),
        (np.arange(N) % 3 * 2, "labels reach 4, but no sample is of class 1"),
        (np.zeros(N), "every label is 0"),
    ],
)
def test_wrong_labels_are_located(tmp_path, monkeypatch, y, words):
    monkeypatch.setattr(rows, "LARGEST", 0)
    monkeypatch.setattr(rows, "BLOCK", 40)
    np.save(tmp_path / "a.npy", table(y))
    with pytest.raises(UserError, match=words):
        load(str(tmp_path / "a.npy"), TableOptions(task="classes"), Request())
