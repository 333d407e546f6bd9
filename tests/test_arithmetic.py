"""`--dtype` and `--blas`: what is chosen and recorded, and that training with bfloat16 operands learns the same."""

import time
import tomllib

import numpy as np
import pytest
from safetensors.numpy import load_file

from mpidp import arithmetic
from mpidp.errors import UserError
from mpidp.nn.kernels import mkl
from mpidp.nn.kernels.products import Products
from tests.launch import run_alone, run_ranks
from tests.test_train import TINY_GPT, error_line, summary, train

WITHOUT_MKL = (
    "import sys\n"
    "from mpidp.nn.kernels import mkl\n"
    "mkl.find = lambda: None\n"
    "from mpidp.train import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def test_types_of_vectors():
    for name in ("float32", "float64"):
        assert arithmetic.vectors_dtype(name) == name
    assert arithmetic.vectors_dtype("bfloat16") == np.float32


def test_without_mkl_auto_is_numpy_and_mkl_an_error(monkeypatch):
    monkeypatch.setattr(mkl, "find", lambda: None)
    assert arithmetic.products("auto", "float32").blas == "numpy"
    emulated = arithmetic.products("auto", "bfloat16")
    assert emulated.blas == "numpy" and "emulated" in emulated.about
    with pytest.raises(UserError, match=r"--blas mkl.*pip install 'mpidp\[mkl\]'"):
        arithmetic.products("mkl", "float32")
    assert arithmetic.recorded({"blas": "mkl", "dtype": "float32"}).blas == "numpy"


def test_a_library_that_cannot_be_loaded_is_an_error(monkeypatch, tmp_path):
    path = tmp_path / "libmkl_rt.so.3"
    path.write_text("no library")
    monkeypatch.setattr(mkl, "find", lambda: path)
    with pytest.raises(UserError, match=r"cannot be used.*take --blas numpy"):
        arithmetic.products("auto", "float32")


def test_the_library_of_this_environment_is_found(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(mkl.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(mkl.site, "getuserbase", lambda: str(tmp_path / "none"))
    assert mkl.find() is None
    path = tmp_path / "lib" / "libmkl_rt.so.3"
    path.touch()
    assert mkl.find() == path


class Slow(Products):
    """Products that take 40 ms more: beyond what a busy machine adds."""

    def matmul(self, a, b, out):
        time.sleep(40e-3)
        super().matmul(a, b, out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_auto_takes_the_faster_one(monkeypatch, dtype):
    monkeypatch.setattr(mkl, "find", lambda: "somewhere")
    for numpy, other, expected in ((Products, Slow, "numpy"), (Slow, Products, "mkl")):
        monkeypatch.setattr(arithmetic, "Products", numpy)
        monkeypatch.setattr(arithmetic, "with_mkl", lambda threads, other=other: other())
        assert arithmetic.faster(dtype) == expected


def test_with_mkl_operands_are_packed_where_there_are_matrix_units(monkeypatch):
    if mkl.find() is None:
        pytest.skip("the extra mkl is not installed")
    assert arithmetic.products("mkl", "float64").blas == "mkl"
    assert arithmetic.products("numpy", "float64").blas == "numpy"
    assert arithmetic.recorded({"dtype": "float32"}).blas == "numpy"
    for units in (True, False):
        monkeypatch.setattr(mkl, "matrix_units", lambda units=units: units)
        products = arithmetic.products("mkl", "bfloat16", 1)
        assert products.packed == units and ("emulated" in products.about) != units
    monkeypatch.setattr(mkl, "matrix_units", lambda: True)
    assert arithmetic.faster("bfloat16") == "mkl"


def test_mkl_that_is_not_installed_is_one_line(tmp_path):
    args = [*TINY_GPT, "--blas", "mkl", "--run-dir", tmp_path / "run"]
    assert "pip install 'mpidp[mkl]'" in error_line(run_ranks(2, ["-c", WITHOUT_MKL, *map(str, args)]))
    assert list(tmp_path.iterdir()) == []


def test_what_multiplied_is_recorded_and_told(tmp_path):
    args = [*map(str, TINY_GPT), "--dtype", "bfloat16", "--run-dir", str(tmp_path), "--json"]
    finished = run_alone(["-c", WITHOUT_MKL, *args])
    facts = summary(finished)
    assert (facts["dtype"], facts["blas"]) == ("bfloat16", "numpy")
    assert "bfloat16 products by numpy, emulated in float32" in finished.stdout.splitlines()[0]
    options = tomllib.loads((tmp_path / "config.toml").read_text())
    assert (options["dtype"], options["blas"]) == ("bfloat16", "numpy")
    saved = load_file(tmp_path / "model.safetensors")
    assert {array.dtype for array in saved.values()} == {np.dtype(np.float32)}
    # Batches as in training: a BLAS may add up in another order where it multiplies other numbers of rows.
    scoring = ["-m", "mpidp.evaluate", "--run", str(tmp_path), "--batch-size", "16", "--json"]
    scores = run_alone(scoring).check().stdout
    assert tomllib.loads("x = " + scores.split('"loss": ')[1].split(",")[0])["x"] == facts["validation_loss"]


def test_a_run_from_before_blas_was_recorded_is_resumed_with_numpy(tmp_path):
    args = [*TINY_GPT, "--checkpoint-every", 4, "--run-dir", tmp_path / "run", "--json"]
    whole = summary(run_alone(train(*args, "--blas", "numpy")))
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace('blas = "numpy"\n', ""))
    again = summary(run_alone(train(*args, "--resume")))
    assert again["blas"] == "numpy" and again["params_sha256"] == whole["params_sha256"]
    assert "--blas numpy, not mkl" in error_line(run_alone(train(*args, "--resume", "--blas", "mkl")))


LEARNED = 0.01
"""On the relative difference of validation losses after 60 steps: seeds differ by more."""


def test_bfloat16_learns_what_float32_learns_on_any_number_of_ranks(tmp_path):
    common = [*TINY_GPT[:-1], 60, "--lr", "1e-2", "--json"]
    reached = {}
    for dtype, ranks in (("float32", 1), ("bfloat16", 1), ("bfloat16", 3)):
        args = train(*common, "--dtype", dtype, "--run-dir", tmp_path / f"{dtype}-{ranks}")
        reached[dtype, ranks] = summary(run_ranks(ranks, args))
    plain, alone, together = reached.values()
    assert alone["validation_loss"] < alone["validation_loss_before"] - 1
    assert alone["validation_loss"] != plain["validation_loss"]
    for facts in (alone, together):
        assert facts["validation_loss"] == pytest.approx(plain["validation_loss"], rel=LEARNED)
    assert together["validation_loss"] == pytest.approx(alone["validation_loss"], rel=LEARNED / 2)
    assert max(together["bytes_sent"] + together["shared_bytes"]) >= 60 * 4 * together["parameters"]
