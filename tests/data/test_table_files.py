import numpy as np
import pytest

from mpidp.data import Request, Schema, load
from mpidp.data.table_files import CsvOptions
from mpidp.data.tables import TableOptions
from mpidp.errors import UserError


def csv(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(path, message, options=None):
    with pytest.raises(UserError, match=message) as caught:
        load(str(path), options, Request())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def targets(data):
    return sorted(
        y for part in (data.train, data.validation) for y in part.batch(np.arange(len(part)))[1].ravel()
    )


# CSV


def test_csv_without_header(tmp_path):
    data = load(csv(tmp_path, "1,2,0.5\n3,4,1.5\n5,6,2.5\n"), None, Request())
    assert data.schema == Schema("values", (2,), 1) and targets(data) == [0.5, 1.5, 2.5]


def test_csv_with_header_and_target(tmp_path):
    path = csv(tmp_path, 'kind,"a, b",c\n0,1,2\n1,3,4\n\n0,5,6\n1,7,8\n')
    data = load(path, CsvOptions(target="kind"), Request())
    assert data.schema == Schema("classes", (2,), 2) and targets(data) == [0, 0, 1, 1]
    assert load(path, CsvOptions(task="values"), Request()).schema.kind == "values"


def test_csv_is_read_whatever_its_line_ends_spaces_and_mark(tmp_path):
    path = csv(tmp_path, b"\xef\xbb\xbfa,b\r\n 1 , 0.5\r\n2,1.5e0\r\n")
    assert targets(load(path, None, Request())) == [0.5, 1.5]


def test_csv_cells_keep_their_precision(tmp_path):
    path = csv(tmp_path, "0,0.1\n1,123456789.123456789\n")
    assert targets(load(path, None, Request(dtype=np.float64))) == [0.1, 123456789.123456789]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, the first line has 2"),
        ("1,2\n\n3,4,5\n", "line 3 has 3 cells, the first line has 2"),
        ("a,b\n1,2\n3,x\n", "line 3, column b: 'x' is no number"),
        ("1,2\n3,\n", "line 2, column 2: the cell is empty"),
        ("a,b\n1,2\nnan,4\n", "line 3, column a is nan"),
        ("a,b\n1,2\n\n3,-inf\n", "line 4, column b is -inf"),
        ("1,2\n3,1e999\n", "line 2, column 2 is inf"),
        ("1,x,3\n4,5,6\n", "line 1: 'x' is no number and '1' is one: neither a header nor a row"),
        ("a,b\n", "a header line and no rows"),
        ("\n \n", "no line with numbers"),
        ("1\n2\n", r"one column \('1'\)"),
        ("a;b\n1;2\n", r"one column \('a;b'\)"),
        ("a,b\n1,2\n", "1 rows are too few"),
        (b"1,2\n3,\xff\n", "byte 6 is no UTF-8 text"),
        ("a,b\n" + "1,1\n3,2\n" * 4, "labels reach 2, but no sample is of class 0"),
        ("a,b\n1,0\n2,1\n3,-1\n" + "4,0\n" * 9, "line 4, column b is -1.0, no class"),
        ("a,b\n1," + "2" * 200_000 + "\n", "line 2: field larger than field limit"),
    ],
)
def test_what_is_wrong_in_a_csv_is_located(tmp_path, text, message):
    refused(csv(tmp_path, text), message)


def test_a_csv_target_must_exist(tmp_path):
    path = csv(tmp_path, "a,b\n1,2\n3,4\n")
    refused(path, "--target c: no such column in .*; it has: a, b", CsvOptions(target="c"))
    path = csv(tmp_path, "1,2\n3,4\n")
    refused(path, "--target c: .* has no header line", CsvOptions(target="c"))


# .npy


def test_npy_tables(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.array([[1, 2, 0.5], [3, 4, 1.5], [5, 6, 2.5]]))
    data = load(str(path), None, Request())
    assert data.schema == Schema("values", (2,), 1) and targets(data) == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    "array, message",
    [
        (np.ones((3, 3, 3)), r"shape \(3, 3, 3\), type float64: needed are"),
        (np.ones(3), r"shape \(3,\), type float64"),
        (np.ones((3, 1)), r"shape \(3, 1\)"),
        (np.array([[1, 2.5], [np.nan, 3.5]]), "row 1, column 0 is nan"),
        (np.array([[1, 2, 2.5], [1, 2, np.inf]]), "row 1, column 2 is inf"),
        (np.array([["a", "b"]]), "plain numbers are needed"),
    ],
)
def test_what_is_wrong_in_an_npy_is_located(tmp_path, array, message):
    path = tmp_path / "t.npy"
    np.save(path, array)
    refused(path, message)


def test_npy_with_objects_is_refused_and_not_run(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.array([[{}, 1]], dtype=object), allow_pickle=True)
    refused(path, r"holds Python objects \(pickle\), which could run code")


def test_damaged_npy_files_are_refused(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.ones((100, 100)))
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    refused(path, "damaged .npy file")
    path.write_bytes(content[:7])
    refused(path, "damaged .npy file")
    path.write_bytes(b"hello, world, this is text")
    refused(path, "not a .npy file")


def test_npy_and_npz_by_the_wrong_name_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", "not a .npy file: it begins with 50 4b 03 04")
    np.save(tmp_path / "b.npy", np.ones(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    refused(tmp_path / "b.npz", "not a .npz file: it begins with 93 4e, not 50 4b")


# .npz


def test_npz_with_x_and_y(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.arange(12.0).reshape(6, 2), y=np.array([0, 1] * 3))
    assert load(str(path), None, Request()).schema == Schema("classes", (2,), 2)
    assert load(str(path), TableOptions(task="values"), Request()).schema == Schema("values", (2,), 1)


def test_npz_with_a_test_part(tmp_path):
    path = tmp_path / "t.npz"
    x = np.arange(6 * 3 * 2, dtype=np.uint8).reshape(6, 3, 2)
    np.savez_compressed(path, x_train=x, y_train=[0, 1] * 3, x_test=x[:2], y_test=[1, 0])
    data = load(str(path), None, Request())
    assert data.schema == Schema("classes", (3, 2, 1), 2)
    assert len(data.train) == 6 and data.validation.labels.tolist() == [1, 0]


def test_npz_without_a_test_part_of_its_own(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x_train=np.arange(12.0).reshape(6, 2), y_train=np.array([0, 1] * 3))
    data = load(str(path), None, Request())
    assert len(data.train) == 5 and len(data.validation) == 1


@pytest.mark.parametrize(
    "names, message",
    [
        (["x"], "no array y; it holds: x; needed are"),
        (["y"], "no array x_train and y_train; it holds: y"),
        (["a", "b"], "no array x_train and y_train; it holds: a, b"),
        (["x_train", "y_train", "x_test"], "no array y_test"),
        ([], "no array x_train and y_train; it holds: nothing"),
    ],
)
def test_npz_without_the_arrays_is_refused(tmp_path, names, message):
    path = tmp_path / "t.npz"
    np.savez(path, **{name: np.arange(6) / 2 for name in names})
    refused(path, message)


def test_npz_says_where_it_is_wrong(tmp_path):
    path = tmp_path / "t.npz"
    x = np.ones((6, 2, 2))
    x[3, 1, 0] = np.nan
    np.savez(path, x=x, y=np.arange(6) / 2)
    refused(path, r"x\[3, 1, 0\] is nan")


def test_npz_with_objects_is_refused_and_not_run(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.array([{}], dtype=object), y=np.ones(1))
    refused(path, r"holds Python objects \(pickle\), which could run code")


def test_damaged_npz_files_are_refused(tmp_path):
    path = tmp_path / "t.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(100, 10)), y=np.ones(100))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "damaged .npz file")
    path.write_bytes(content[:500] + b"\0" * 500 + content[1000:])
    refused(path, "damaged .npz file")
    path.write_bytes(b"hello, world, this is text")
    refused(path, "not a .npz file")
