import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mpidp.data import Request, Schema, load
from mpidp.errors import UserError

FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes, written after its description and not with the code under test."""
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write(folder, part, n, suffix="", dash="-"):
    images = np.arange(n * 6).reshape(n, 3, 2) % 256
    labels = np.arange(n) % 3
    for what, array in ((f"images{dash}idx3", images), (f"labels{dash}idx1", labels)):
        content = idx(array)
        (folder / f"{part}-{what}-ubyte{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return images, labels


def refused(folder, message, name=""):
    with pytest.raises(UserError, match=message) as caught:
        load(str(folder), None, Request())
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dash", ["-", "."])
def test_a_folder_of_idx_files(tmp_path, suffix, dash):
    images, labels = write(tmp_path, "train", 9, suffix, dash)
    write(tmp_path, "t10k", 4, suffix, dash)
    data = load(str(tmp_path), None, Request())
    assert data.schema == Schema("classes", (3, 2, 1), 3)
    assert len(data.train) == 9 and len(data.validation) == 4
    x, y = data.train.batch(np.array([8, 0]))
    assert np.allclose(x[..., 0], images[[8, 0]] / 255, atol=1e-7) and y.tolist() == labels[[8, 0]].tolist()


def test_without_a_test_part_some_are_held_out(tmp_path):
    write(tmp_path, "train", 9)
    data = load(str(tmp_path), None, Request(validation_fraction=0.3))
    assert len(data.train) == 6 and len(data.validation) == 3


def test_missing_companions_are_named(tmp_path):
    write(tmp_path, "t10k", 4)
    refused(tmp_path, "no train-images-idx3-ubyte")
    write(tmp_path, "train", 9)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    refused(tmp_path, "no train-labels-idx1-ubyte")


@pytest.mark.parametrize("cut", [0, 2, 10, 17, -1])
def test_truncated_files_are_named(tmp_path, cut):
    write(tmp_path, "train", 9)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    message = {0: "the file is empty", 2: "begins with 00 00,"}.get(cut, "truncated or damaged")
    refused(tmp_path, message, path.name)


def test_too_long_files_are_named(tmp_path):
    write(tmp_path, "train", 9)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    refused(tmp_path, "its header says 9 bytes, more than 9 follow", path.name)


@pytest.mark.parametrize("magic", [b"\x89PNG", b"\0\0\x0d\x03", b"\0\0\x08\x01", b"\0\1\x08\x03"])
def test_a_bad_magic_number_is_shown(tmp_path, magic):
    write(tmp_path, "train", 9)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(magic + path.read_bytes()[4:])
    refused(
        tmp_path,
        f"begins with {magic.hex(' ')}, an IDX file of bytes in 3 dimensions with 00 00 08 03",
        path.name,
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_damaged_gzip_is_named(tmp_path, damage):
    write(tmp_path, "train", 9, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"not packed at all")
    path.write_bytes(content)
    refused(tmp_path, "damaged gzip file", path.name)


def test_counts_must_agree(tmp_path):
    write(tmp_path, "train", 9)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(8) % 3))
    refused(tmp_path, "x has 9 rows, y has 8")


def test_labels_must_be_without_gaps_and_known(tmp_path):
    write(tmp_path, "train", 9)
    write(tmp_path, "t10k", 4)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 7])))
    refused(tmp_path, r"t10k label 3 is 7, no class of 0 \.\.\. 2")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(9) % 3 * 2))
    refused(tmp_path, "labels reach 4, but no sample is of class 1")


def test_one_file_alone_points_to_its_folder(tmp_path):
    write(tmp_path, "train", 9)
    with pytest.raises(UserError, match="give the folder that holds this IDX file"):
        load(str(tmp_path / "train-images-idx3-ubyte"), None, Request())


@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_as_debian_packs_it():
    data = load(str(FASHION), None, Request())
    assert data.schema == Schema("classes", (28, 28, 1), 10)
    assert len(data.train) == 60_000 and len(data.validation) == 10_000
    assert (np.bincount(data.train.labels) == 6000).all()
    x, _ = data.train.batch(np.arange(100))
    assert x.min() == 0.0 and x.max() == 1.0 and 0.2 < x.mean() < 0.4
