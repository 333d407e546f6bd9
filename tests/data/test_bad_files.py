"""Paths, encodings and headers that are not what they seem."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from mpidp.data import Request, load
from mpidp.data.table_files import CsvOptions
from mpidp.data.text import TextOptions
from mpidp.data.token_files import BinOptions
from mpidp.errors import UserError

SHORT = Request(context=4, validation_fraction=0.25)
MIB = 1 << 20


def refused(path, words, options=None, request=SHORT):
    with pytest.raises(UserError, match=words) as caught:
        load(str(path), options, request)
    return str(caught.value)


# Paths


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.npy", "a.npz", "a.bin", "a.json"])
def test_a_pipe_blocks_nobody(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, rf"{name}: neither a file nor a folder: a named pipe")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train.bin", "text.md"])
def test_a_pipe_in_a_folder_blocks_nobody(tmp_path, name):
    for other in ("train-labels-idx1-ubyte", "val.bin", "other.md"):
        (tmp_path / other).write_bytes(b"x" * 100)
    os.mkfifo(tmp_path / name)
    refused(tmp_path, rf"{name}: neither a file nor a folder: a named pipe")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full", "/dev/null"])
def test_devices_are_refused(path):
    refused(path, "a device")


def test_links_in_a_circle(tmp_path):
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    refused(tmp_path / "loop.csv", "loop.csv: cannot be read: Too many levels of symbolic links")
    (tmp_path / "loop.csv").unlink()
    (tmp_path / "inner").symlink_to(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"abcdef" * 10)
    assert len(load(str(tmp_path), None, SHORT).train) == (45 - 1) // 4


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / "odd\udcff\n name.txt"
    path.write_bytes(b"abcdef" * 10)
    assert len(load(str(tmp_path), None, SHORT).train) == len(load(str(path), None, SHORT).train)
    refused("no/such\0name", "no such data source or file|cannot be the name of a file")


def test_thousands_of_files(tmp_path):
    for i in range(3000):
        (tmp_path / f"{i:04}.txt").write_bytes(b"%04d" % i)
    data = load(str(tmp_path), None, Request(context=5, validation_fraction=0.1))
    x, _ = data.train.batch(np.array([0, 1500]))
    assert [bytes(row.astype(np.uint8)) for row in x] == [b"0000\n", b"1500\n"]


def test_packed_text_is_refused(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"x" * 100)
    refused(tmp_path / "a.txt.gz", r"a packed file: unpack it first \(gunzip\)")


# Encodings

ENCODED = {
    "Latin-1": ("naïve ".encode("latin-1") * 50, r"a\.txt: byte 2 is ef, .*iconv -f LATIN1"),
    "UTF-16": (("\ufeff" + "text " * 50).encode("utf-16-le"), r"a\.txt: byte 0 is ff, .*iconv -f UTF-16"),
    "UTF-16, highest first": (
        ("\ufeff" + "text " * 50).encode("utf-16-be"),
        r"byte 0 is fe, .*iconv -f UTF-16",
    ),
    "UTF-16 without a mark": (("text " * 50).encode("utf-16-le"), r"a\.txt: byte 1 is 00, .*sign of UTF-16"),
    "cut in a character": (("é" * 50).encode()[1:], r"a\.txt: byte 0 is a9"),
    "a NUL": (b"text " * 50 + b"\0" + b"text " * 3, r"a\.txt: byte 250 is 00"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_tokenizer_needs_text_and_bytes_do_not(tmp_path, name):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    content, words = ENCODED[name]
    (tmp_path / "a.txt").write_bytes(content)
    refused(tmp_path / "a.txt", words, TextOptions(tokenizer="bpe", bpe_vocabulary=260))
    x, _ = load(str(tmp_path / "a.txt"), None, SHORT).train.batch(np.array([0]))
    assert x.astype(np.uint8).tobytes() == content[:4]


def test_the_file_of_a_folder_is_named(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra 'text'")
    (tmp_path / "a.txt").write_bytes(b"fine " * 50)
    (tmp_path / "b.txt").write_bytes(b"not\xff " * 50)
    refused(tmp_path, r"b\.txt: byte 3 is ff", TextOptions(tokenizer="bpe", bpe_vocabulary=260))


@pytest.mark.parametrize(
    "content, words",
    [
        ("a,b\n1,2\n".encode("utf-16"), "byte 0 is no UTF-8 text: .*iconv -f UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "byte 1 is no UTF-8 text: .*iconv -f UTF-16"),
        ("größe,b\n1,2\n".encode("latin-1"), "byte 2 is no UTF-8 text: .*iconv -f LATIN1"),
        (b"1;2\n3;4\n", "with semicolons between cells"),
        (b"1\t2\n3\t4\n", "with tabs between cells"),
        (b"1,2\n1_000,3\n", "line 2, column 1: '1_000' is no number"),
        (b"1" * (9 << 20) + b",2\n", "a line of more than"),
    ],
)
def test_tables_of_another_make(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    refused(tmp_path / "a.csv", words)


def test_two_columns_of_one_name_are_no_target(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n4,5,6\n")
    refused(tmp_path / "a.csv", "--target a: 2 columns of this name", CsvOptions(target="a"))


# Sizes


def test_a_header_is_held_against_the_file(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 2)))
    content = path.read_bytes()
    for shape in (b"(9**9, 2)", b"(10**15,2)", b"(400000000, 2)", b"(3, 2)", b"(-4, 2)", b"(4, " + b"(" * 40):
        path.write_bytes(content.replace(b"(4, 2), }".ljust(len(shape) + 4), shape + b", }".ljust(4)))
        refused(path, "damaged .npy file")
    path.write_bytes(content + content)
    refused(path, "damaged .npy file: its header says")


def bomb(path, size):
    """A small .npz whose array unpacks to `size` zero bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(size // MIB):
            member.write(bytes(MIB))


def test_what_is_packed_is_looked_at_before_it_is_unpacked(tmp_path):
    bomb(tmp_path / "a.npz", 64 * MIB)
    assert (tmp_path / "a.npz").stat().st_size < MIB
    tracemalloc.start()
    refused(tmp_path / "a.npz", "unpacked take 0.1 GiB, more than", request=Request(memory=16 * MIB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_table_beyond_memory_is_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.zeros((1000, 2))))
    refused(tmp_path / "a.npy", "more than the 0.0 GiB that are free", request=Request(memory=1000))
    (tmp_path / "a.csv").write_text("1,2\n" * 1000)
    refused(tmp_path / "a.csv", "rows of 2 numbers take .* more than", request=Request(memory=1000))


# Token ids


@pytest.mark.parametrize("token_type", ["uint16", "uint32"])
def test_bin_files(tmp_path, token_type):
    path = tmp_path / "a.bin"
    np.arange(40).astype(token_type).tofile(path)
    data = load(str(path), BinOptions(token_type=token_type), SHORT)
    assert data.schema.outputs == 40 and data.train.batch(np.array([1]))[0].tolist() == [[4, 5, 6, 7]]
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "no whole number of", BinOptions(token_type=token_type))


def test_a_folder_of_bin_files_has_its_own_validation_part(tmp_path):
    np.arange(40, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(100, 120, dtype="<u2").tofile(tmp_path / "val.bin")
    data = load(str(tmp_path), None, SHORT)
    assert data.schema.outputs == 120
    assert len(data.train) == 9 and data.validation.batch(np.array([0]))[0].tolist() == [[100, 101, 102, 103]]


def test_the_header_of_llm_c_is_no_tokens(tmp_path):
    path = tmp_path / "a.bin"
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 40
    path.write_bytes(header.tobytes() + np.arange(40, dtype="<u2").tobytes())
    assert load(str(path), None, SHORT).train.batch(np.array([0]))[0].tolist() == [[0, 1, 2, 3]]
    path.write_bytes(path.read_bytes()[:-2])
    refused(path, "the header of an llm.c file of 40 uint16 tokens")
