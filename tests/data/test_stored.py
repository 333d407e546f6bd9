"""Files that are read where they lie, and what becomes of them meanwhile."""

import os

import numpy as np
import pytest

from mpidp.data import Request, load, stored
from mpidp.data.stored import Stored, array_digest
from mpidp.errors import RunError, UserError


@pytest.fixture
def files(tmp_path):
    """Seven files and what they are together, in pieces of 0 to 60 bytes."""
    contents = [bytes(range(10 * n)) for n in (3, 0, 1, 6, 0, 2, 5)]
    paths = [tmp_path / f"{i}.txt" for i in range(7)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths, b"\n".join(content for content in contents if content)


@pytest.mark.parametrize("open_at_a_time", [1, 64])
def test_any_part_of_files_is_as_if_they_were_one(files, monkeypatch, open_at_a_time):
    monkeypatch.setattr(stored, "OPEN", open_at_a_time)
    paths, whole = files
    content = Stored(paths)
    assert len(content) == len(whole)
    for lo in range(len(whole)):
        for hi in range(lo, len(whole) + 1, 7):
            assert content.read(lo, hi) == whole[lo:hi]
    assert content.rows([0, 25, 100], 20) == whole[:20] + whole[25:45] + whole[100:120]
    array = content.array("<u2", skip=3)[5:20]
    expected = np.frombuffer(whole[3 : 3 + 2 * ((len(whole) - 3) // 2)], "<u2")[5:20]
    assert len(array) == 15 and (array.rows([0, 4], 3) == [expected[:3], expected[4:7]]).all()


def test_as_few_files_are_open_as_one_asks_for(files, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(stored, "OPEN", 2)
    content = Stored(files[0])
    content.read(0, len(content))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del content
    assert len(os.listdir("/proc/self/fd")) == before


CHANGES = {
    "truncated": (lambda path: os.truncate(path, 10), r"has shrunk from 1,000 to 10 bytes"),
    "emptied": (lambda path: os.truncate(path, 0), r"has shrunk from 1,000 to 0 bytes"),
    "written to": (lambda path: path.write_bytes(b"y" * 1000), "was written to since the run began"),
    "longer": (lambda path: path.write_bytes(b"x" * 2000), "was written to since the run began"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_a_run_is_one_line(tmp_path, change):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(0, 0))  # so that the change is seen however quick it comes
    data = load(str(path), None, Request(context=9))
    act, words = CHANGES[change]
    act(path)
    with pytest.raises(RunError, match=rf"a\.txt: {words}"):
        data.train.batch(np.arange(len(data.train)))


def test_a_file_that_is_removed_while_it_is_open_is_still_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1000)
    data = load(str(path), None, Request(context=9))
    path.unlink()
    assert (data.train.batch(np.array([3]))[0] == ord("x")).all()


@pytest.mark.parametrize("what", ["gone", "a pipe", "closed"])
def test_a_file_of_many_that_vanishes_is_one_line(tmp_path, monkeypatch, what):
    monkeypatch.setattr(stored, "OPEN", 1)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(name.encode() * 300)
    data = load(str(tmp_path), None, Request(context=9))
    (tmp_path / "b.txt").unlink()
    words = "no such file"
    if what == "a pipe":
        os.mkfifo(tmp_path / "b.txt")
        words = "a named pipe"
    if what == "closed":
        monkeypatch.setattr(os, "pread", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        words = "cannot be read any more: Input/output error"
    with pytest.raises(RunError, match=words):
        data.train.batch(np.arange(len(data.train)))


def test_a_file_that_changes_while_it_is_loaded_is_the_user_s(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1000)
    monkeypatch.setattr(Stored, "digest", lambda self: (os.truncate(path, 5), self.read(0, 1000))[1])
    with pytest.raises(UserError, match="has shrunk"):
        load(str(path), None, Request(context=9))


@pytest.mark.parametrize("size", [1, 1000, 1 << 16])
def test_a_digest_covers_every_byte_up_to_its_limit(tmp_path, monkeypatch, size):
    monkeypatch.setattr(stored, "WHOLE", 1 << 16)
    path = tmp_path / "a"
    digests = set()
    for position in {0, size // 2, size - 1}:
        content = bytearray(size)
        content[position] = 1
        path.write_bytes(content)
        digests.add(Stored([path]).digest())
    assert len(digests) == len({0, size // 2, size - 1})


def test_a_digest_of_what_is_larger_is_quick_and_covers_both_ends(tmp_path):
    digests = set()
    for at, byte in ((0, b"0"), ((1 << 36) - 1, b"1"), (0, b"1")):
        with open(tmp_path / "a", "wb") as file:
            file.truncate(1 << 36)
            file.seek(at)
            file.write(byte)
        digests.add(Stored([tmp_path / "a"]).digest())
    assert len(digests) == 3


def test_digests_of_arrays_tell_type_and_shape_apart():
    zeros = [np.zeros(6), np.zeros(6, np.int64), np.zeros((2, 3)), np.zeros((3, 2))]
    assert len({array_digest(array) for array in zeros} | {array_digest(*zeros)}) == 5
