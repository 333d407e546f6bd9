import os
import sys
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from mpidp.data import DEFAULT, PATHS, SOURCES, Request, Schema, find, load
from mpidp.data.text import TextOptions, text_folder
from mpidp.errors import UserError


def needs(name):
    if name in ("digits", "diabetes", "breast-cancer"):
        pytest.importorskip("sklearn", reason="needs the extra 'data'")


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_source_keeps_the_contract(name, dtype):
    needs(name)
    data = load(name, None, Request(dtype=dtype, context=16))
    assert data.name == name and isinstance(data.schema, Schema)
    assert (data.tokenizer is not None) == (data.schema.kind == "tokens")
    for part in (data.train, data.validation):
        assert len(part) >= 1
        indices = np.array([len(part) - 1, 0, 0])
        x, y = part.batch(indices)
        assert x.shape == (3, *data.schema.inputs) and x.flags.c_contiguous and y.flags.c_contiguous
        assert (x[1] == x[2]).all() and (y[1] == y[2]).all()
        empty_x, empty_y = part.batch(indices[:0])
        assert empty_x.shape == (0, *x.shape[1:]) and empty_y.shape == (0, *y.shape[1:])
        assert (empty_x.dtype, empty_y.dtype) == (x.dtype, y.dtype)
        if data.schema.kind == "tokens":
            assert x.dtype == y.dtype == np.int32 and y.shape == x.shape and part.labels is None
        elif data.schema.kind == "classes":
            assert x.dtype == dtype and y.dtype == np.int32 and y.shape == (3,)
            assert (part.labels[indices] == y).all() and len(part.labels) == len(part)
        else:
            assert x.dtype == y.dtype == dtype and y.shape == (3, data.schema.outputs) and part.labels is None


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_request_gives_the_same_data(name):
    needs(name)
    one, two = (load(name, None, Request(seed=3)) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.schema == two.schema and len(one.train) == len(two.train)


def test_fingerprints_tell_data_apart(tmp_path):
    path = tmp_path / "a.txt"
    prints = []
    for text in ("abcd" * 100, "abcx" + "abcd" * 99, "abcd" * 101):
        path.write_text(text)
        prints += [load(str(path), None, Request(context=c)).fingerprint() for c in (4, 8)]
    assert len(set(prints)) == len(prints)


def test_fingerprints_pass_over_rounding_but_not_over_other_numbers():
    one, other = (load("synthetic-regression", None, Request(seed=s)) for s in (0, 1))
    print_before = one.fingerprint()
    assert print_before != other.fingerprint()
    one.train.x *= np.float32(1 + 1e-7)
    one.train.x[:, 0] += np.float32(1e-9)
    assert one.fingerprint() == print_before
    one.train.x *= 2
    assert one.fingerprint() != print_before


def test_options_are_declared_once_a_name():
    """The command line has one option of a name, so that all who use it must mean the same by it."""
    seen = {}
    for source in [*SOURCES.values(), *PATHS.values()]:
        assert is_dataclass(source.Options) and source.summary
        for f in fields(source.Options):
            assert f.metadata["help"]
            assert seen.setdefault(f.name, (f.type, f.default, f.metadata)) == (f.type, f.default, f.metadata)


def test_the_default_is_known():
    assert DEFAULT in SOURCES


def test_find_tells_the_options_of_a_path(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,2\n")
    assert find(str(path)).Options is PATHS["csv"].Options
    assert find(str(tmp_path)).Options is PATHS["text-folder"].Options
    assert find("digits") is SOURCES["digits"]


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError) as caught:
        load("pyton-docs", None, Request())
    assert str(caught.value).startswith("--data pyton-docs: no such data source or file; known: ")
    assert all(name in str(caught.value) for name in SOURCES)


def test_a_bare_file_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("abc " * 100)
    assert load("words", None, Request(context=8)).name == "words"


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("abc " * 100)
    assert load("~/words.txt", None, Request(context=8)).schema.kind == "tokens"


@pytest.mark.parametrize("name", ["none.txt", "none.npy", "none.npz", "none.csv", "no/folder/none.txt"])
def test_a_missing_path_is_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="no such file or folder") as caught:
        load(str(path), None, Request())
    assert str(path) in str(caught.value)


def test_a_link_to_nowhere_is_named(tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"link\.txt: no such file or folder"):
        load(str(link), None, Request())


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: neither a file nor a folder"):
        load(str(tmp_path / "pipe"), None, Request())


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".npz", ".csv"])
def test_an_empty_file_is_named(tmp_path, suffix):
    path = tmp_path / f"void{suffix}"
    path.touch()
    with pytest.raises(UserError, match="the file is empty") as caught:
        load(str(path), None, Request())
    assert str(path) in str(caught.value)


@pytest.fixture
def forbidden():
    """A folder that this process, unprivileged for the time, may enter, and in it what it may not read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        (folder / "closed").mkdir()
        for path in ("a.txt", "a.npy", "a.npz", "a.csv", "closed/a.txt", "train-images-idx3-ubyte"):
            (folder / path).write_bytes(b"x" * 1000)
            os.chmod(folder / path, 0)
        os.chmod(folder / "closed", 0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        os.chmod(folder / "closed", 0o700)


@pytest.mark.parametrize("name", ["a.txt", "a.npy", "a.npz", "a.csv", "closed/a.txt", "closed", "."])
def test_an_unreadable_file_is_named(forbidden, name):
    path = forbidden / name
    with pytest.raises(UserError, match="permission denied") as caught:
        load(str(path), None, Request())
    assert str(path) in str(caught.value)


def test_an_unreadable_file_in_a_folder_is_named(forbidden):
    with pytest.raises(UserError, match="permission denied"):
        text_folder(forbidden, TextOptions(), Request())


@pytest.mark.parametrize("name", ["digits", "diabetes", "breast-cancer"])
def test_missing_scikit_learn_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        UserError, match=rf"--data {name} is part of scikit-learn: pip install 'mpidp\[data\]'"
    ):
        load(name, None, Request())


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_the_validation_fraction_is_a_fraction(fraction):
    with pytest.raises(UserError, match=r"--validation-fraction .* must be above 0 and below 1"):
        Request(validation_fraction=fraction)


def test_the_context_is_positive():
    with pytest.raises(UserError, match="--context 0 must be at least 1"):
        Request(context=0)


def test_digits_are_images():
    needs("digits")
    data = load("digits", None, Request())
    assert data.schema == Schema("classes", (8, 8, 1), 10)
    assert len(data.train) == 1617 and len(data.validation) == 180
    x, _ = data.train.batch(np.arange(1617))
    assert x.min() == 0.0 and x.max() == 1.0


def test_parts_of_a_bundled_set_are_disjoint_and_cover_it():
    needs("digits")
    from sklearn.datasets import load_digits

    data = load("digits", None, Request(seed=5))
    rows = [part.batch(np.arange(len(part))) for part in (data.train, data.validation)]
    seen = sorted((x * 16).tobytes() + bytes([y]) for xs, ys in rows for x, y in zip(xs, ys, strict=True))
    found = load_digits()
    images = found.images.astype(np.float32)
    assert seen == sorted(x.tobytes() + bytes([y]) for x, y in zip(images, found.target, strict=True))
