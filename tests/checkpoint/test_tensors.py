"""safetensors files: as the library has them, and harmless whatever is in them."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpidp.checkpoint import tensors

SIGNS = list(b'0129[]{}",:-e')
TYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint64, np.uint8, np.bool_]


def arrays():
    rng = np.random.default_rng(0)
    made = {str(i): rng.integers(0, 2, (i, 3)).astype(dtype) for i, dtype in enumerate(TYPES)}
    return made | {"number": np.array(7), "cube": rng.normal(size=(2, 3, 4))}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    digest, size = tensors.write(ours, arrays())
    assert digest == hashlib.sha256(ours.read_bytes()).hexdigest() == tensors.sha256(ours)
    assert size == ours.stat().st_size
    same(load_file(ours), arrays())
    save_file(arrays(), theirs, {"by": "the library"})
    same(tensors.read(theirs), arrays())


def test_a_file_longer_than_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "PIECE", 100)
    digest, _ = tensors.write(tmp_path / "file", arrays())
    assert digest == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    same(tensors.read(tmp_path / "file"), arrays())


def with_header(path, header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def one(**about):
    return {"x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]} | about}


HOSTILE = {
    "a long header": ({"header": {}, "length": 2**63}, "header"),
    "a huge shape": ({"header": one(shape=[2**40, 2**40])}, "lies outside"),
    "a huge shape of nothing": (
        {"header": one(shape=[0, 2**62], data_offsets=[0, 0]), "data": b""},
        "outside",
    ),
    "many dimensions": ({"header": one(shape=[1] * 200)}, "lies outside"),
    "beyond the file": ({"header": one(shape=[2**30], data_offsets=[0, 2**33])}, "lies outside"),
    "a negative place": ({"header": one(data_offsets=[-8, 0])}, "lies outside"),
    "a negative shape": ({"header": one(shape=[-1])}, "lies outside"),
    "another length": ({"header": one(shape=[2])}, "which its shape is not"),
    "an object": ({"header": one(dtype="O")}, "no type, shape and place of x"),
    "no type": ({"header": {"x": {}}}, "no type, shape and place of x"),
    "a list for a type": ({"header": one(dtype=["F64"])}, "no type, shape and place"),
    "no number": ({"header": one(data_offsets=[float("nan"), 8])}, "no type, shape and place"),
    "infinite": ({"header": one(data_offsets=[0, float("inf")])}, "no type, shape and place"),
    "three places": ({"header": one(data_offsets=[0, 8, 8])}, "no type, shape and place"),
    "overlap": ({"header": one() | {"y": one()["x"]}}, "overlap"),
    "a gap": ({"header": one(), "data": b"\0" * 16}, "overlap, or leave gaps"),
    "nested": ({"header": b"[" * 100_000}, "nested too deep"),
    "no text": ({"header": b"\xff\xfe{"}, "codec can.t decode"),
    "no object": ({"header": [1]}, "no JSON object"),
}


@pytest.mark.parametrize("file", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, file):
    how, words = HOSTILE[file]
    with_header(tmp_path / "file", **how)
    with pytest.raises(ValueError, match=words):
        tensors.read(tmp_path / "file")


def test_thousands_of_damaged_files_are_refused_or_read(tmp_path):
    """Without the hash, which would find each of them: never another exception, and never more memory than the file."""
    rng = np.random.default_rng(0)
    path = tmp_path / "file"
    tensors.write(path, arrays())
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    header = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    for turn in range(4000):
        text = whole.copy()
        places = rng.integers(0, header if turn % 4 else len(text), rng.integers(1, 4))
        text[places] = rng.integers(0, 256, len(places)) if turn % 2 else rng.choice(SIGNS, len(places))
        path.write_bytes(text[: rng.integers(0, len(text)) if turn % 5 == 0 else None].tobytes())
        try:
            found = tensors.read(path)
        except ValueError:
            continue
        assert sum(array.nbytes for array in found.values()) <= len(text)


def test_a_disk_that_takes_a_part_at_a_time(tmp_path):
    class Slow:
        got = b""

        def write(self, piece):
            self.got += bytes(piece[:3])
            return len(piece[:3])

    slow = Slow()
    tensors.put(slow, hashlib.sha256(), memoryview(b"0123456789"))
    assert slow.got == b"0123456789"
