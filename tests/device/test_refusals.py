"""What the stand-in refuses: all that CuPy has not, and what costs a wait or a copy without saying so."""

import math

import numpy as np
import pytest


def place(cupy):
    """The names that the cases speak of."""
    host = np.arange(6, dtype=np.float32)
    device = cupy.asarray(host)
    return {
        "np": np, "cupy": cupy, "math": math, "host": host, "x": device, "y": cupy.asarray(host + 1),
        "ids": np.array([1, 2]), "ints": cupy.asarray([1, 2, 3]), "wide": cupy.zeros(6, np.float64),
    }  # fmt: skip


COPIES = [
    "float(x[0])", "int(x[0])", "bool(x[0])", "1 if x[0] > 0 else 2", "x[0] and 1", "not x[0]", "range(ints[0])",
    "math.sqrt(x[1])", "np.asarray(x)", "np.array(x)", "np.stack([x, x])", "[0, 1][ints[0]]", "max(x[0], x[1])",
    "x[0] in (1.0, 2.0)", "x.tolist()", "x.item()", "x.tobytes()", "host[ints]", "x[x > 2]", "x.tofile('f')",
]  # fmt: skip
MIXTURES = [
    "x + host", "host + x", "x * host", "x @ host", "host @ x", "np.add(x, host)", "cupy.add(x, host)",
    "cupy.concatenate([x, host])", "cupy.where(x > 1, x, host)", "cupy.add(x, x, out=host)", "np.add(x, x, out=host)",
    "cupy.dot(x, host)", "cupy.sum(host)", "x[ids]", "x[[1, 2]]", "cupy.take(x, ids)", "x + [1] * 6",
    "cupy.multiply([1, 2], ints[:2])", "x.__setitem__(slice(None), host)", "x.__setitem__(ids, 0)",
    "x.set(host.astype('f8'))", "x.set(y)", "x.get(out=np.empty(6))", "x.get(out=y)", "x.__iadd__(host)",
]  # fmt: skip
ABSENT = [
    "cupy.vecdot(x, x)", "cupy.matvec(x, x)", "cupy.errstate(all='ignore')", "x.newbyteorder()",
    "cupy.take(x, ints, mode='wrap', out=y, buffered=True)", "cupy.add(x, x, where=x)", "cupy.sum(x, where=x)",
    "x.sum(where=x)", "cupy.add(x, x, order='C')", "cupy.nditer(x)", "cupy.add.at(x, ints, 1)", "cupy.linalg.multi_dot",
]  # fmt: skip
TYPES = [
    "cupy.add(x, 0.5, out=ints[:6])", "cupy.add(ints, 0.5, out=ints)", "ints.__iadd__(0.5)",
    "cupy.divide(ints, 2, out=ints)", "cupy.add(x, x, out=cupy.zeros(6, np.int32))", "cupy.asarray(np.array([{}]))",
    "cupy.add(x[:2], x[:2], out=x)[9]", "hash(x)", "{x: 1}",
]  # fmt: skip


@pytest.mark.parametrize("expression", [*COPIES, *MIXTURES, *ABSENT, *TYPES])
def test_refused(cupy, expression):
    with pytest.raises((TypeError, AttributeError, ValueError, IndexError)):
        eval(expression, place(cupy))


ALLOWED = {
    "x + y": [1, 3, 5, 7, 9, 11],
    "2 * x - np.float32(1)": [-1, 1, 3, 5, 7, 9],
    "np.add(x, y)": [1, 3, 5, 7, 9, 11],
    "x[ints]": [1, 2, 3],
    "cupy.where(x > 2, x, 0)": [0, 0, 0, 3, 4, 5],
    "cupy.add(x, y, out=wide)": [1, 3, 5, 7, 9, 11],
    "x.reshape(2, 3)[:, 1]": [1, 4],
    "cupy.take(x, ints)": [1, 2, 3],
    "cupy.asarray(host)": [0, 1, 2, 3, 4, 5],
    "x.astype(np.int32) % 2": [0, 1, 0, 1, 0, 1],
    "x.sum()": 15,
    "(x @ y)": 70,
    "cupy.maximum(x, 2)": [2, 2, 2, 3, 4, 5],
}


@pytest.mark.parametrize("expression", ALLOWED)
def test_allowed(cupy, expression):
    found = eval(expression, place(cupy))
    assert isinstance(found, cupy.ndarray)
    assert found.get().tolist() == ALLOWED[expression]


def test_views_share_memory_and_new_arrays_are_aligned(cupy):
    x = cupy.zeros((4, 6), np.float32)
    x[1:3].reshape(-1)[5:] = 7
    assert x.get().reshape(-1).tolist() == [0] * 11 + [7] * 7 + [0] * 6
    for new in (x, cupy.empty(3, np.float16), x + 1, x.copy(), cupy.asarray([1.0]), x.sum(axis=0)):
        assert new.data.ptr % 512 == 0
