"""A share of the long run (`make fuzz`), in a process of its own with limited memory; properties of single parts."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.data import Request, load
from mpidp.errors import UserError
from tests.fuzz.data_fuzz import npy
from tests.fuzz.oracle import Hang, judged, limited
from tests.launch import run_alone


def test_a_share_of_the_long_run():
    finished = run_alone(["-m", "tests.fuzz", "--inputs", "1500", "--seed", "5"], timeout=100)
    assert finished.returncode == 0, str(finished)
    total = finished.stdout.strip().splitlines()[-1]
    inputs, refused, taken, defects = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+", total)[:4])
    assert inputs >= 1450 and refused > 500 and taken > 100 and defects == 0


def refuse(line):
    raise UserError(line)


@pytest.mark.parametrize(
    "body, words",
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: np.float32(1) / np.zeros(1), "RuntimeWarning"),
        (lambda: np.empty(1 << 60), "MemoryError"),
        (lambda: refuse(""), "a poor line"),
    ],
)
def test_the_judge_sees_defects(body, words):
    outcome, text = judged(body)
    assert outcome == "defect" and words in text


def test_the_judge_sees_a_hang():
    with pytest.raises(Hang), limited(0.1):
        while True:
            pass


def taken(folder, name, content, **asked):
    """The data in a file of this content, or None where it is refused."""
    path = folder / name
    path.write_bytes(content)
    try:
        return load(str(path), None, Request(**asked))
    except UserError as error:
        assert str(path) in str(error)
        return None


@settings(max_examples=60, deadline=None)
@given(content=st.binary(min_size=1, max_size=300), context=st.integers(1, 20))
def test_text_is_its_bytes_whatever_they_are(tmp_path_factory, content, context):
    data = taken(tmp_path_factory.mktemp("text"), "a.txt", content, context=context, validation_fraction=0.3)
    if data is None:
        assert len(content) < 3 * (context + 1)
        return
    x, y = data.train.batch(np.arange(len(data.train)))
    assert content.startswith(x.astype(np.uint8).tobytes())
    assert content[1:].startswith(y.astype(np.uint8).tobytes())


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(-3, 2**33), min_size=4, max_size=60))
def test_token_ids_are_read_or_refused(tmp_path_factory, ids):
    data = taken(tmp_path_factory.mktemp("ids"), "a.npy", npy(np.array(ids)), context=1)
    fit = min(ids) >= 0 and max(ids) < 2**31
    assert (data is not None) == fit
    if data is not None:
        x, _ = data.train.batch(np.arange(len(data.train)))
        assert x.ravel().tolist() == ids[: x.size] and data.schema.outputs == max(ids) + 1


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=4, max_size=20))
def test_cells_are_numbers_or_refused(tmp_path_factory, rows):
    text = "\n".join(",".join(map(repr, row)) for row in rows)
    data = taken(tmp_path_factory.mktemp("csv"), "a.csv", text.encode(), dtype=np.float64)
    if not np.isfinite(rows).all():
        assert data is None
    elif data is not None and data.schema.kind == "values":
        targets = [
            part.batch(np.arange(len(part)))[1].ravel().tolist() for part in (data.train, data.validation)
        ]
        assert sorted(value for part in targets for value in part) == sorted(row[1] for row in rows)
