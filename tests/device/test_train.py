"""The train program with `--device cuda`, on the stand-in for CuPy: what it computes is what the host computes."""

import json
import os
from pathlib import Path

import pytest

from tests.launch import ROOT, Finished, run_ranks

STAND_IN = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
RUN = ["-m", "mpidp.train", "--steps", 6, "--model", "mlp", "--data", "synthetic-classes"]


def train(folder: Path, *options: object) -> Finished:
    return run_ranks(2, [*RUN, "--run-dir", folder, *options], env=STAND_IN)


def test_the_loss_is_that_of_the_host(tmp_path):
    found = []
    for device in ("cpu", "cuda"):
        train(tmp_path / device, "--device", device).check()
        found.append(json.loads((tmp_path / device / "summary.json").read_text()))
    host, device = found
    for name in ("train_loss", "validation_loss"):
        assert device[name] == pytest.approx(host[name], rel=1e-4, abs=1e-6)
    assert "staged_bytes" not in host
    assert min(device["staged_bytes"]) >= 6 * 4 * device["parameters"]


def test_a_gpt_of_sixteen_bits_ends_where_the_host_s_does(tmp_path):
    (tmp_path / "text.txt").write_text("in the beginning was the word\n" * 40)
    shape = ("--layers", 1, "--heads", 2, "--width", 32, "--context", 16, "--steps", 3, "--batch-size", 4)
    options = ("--model", "gpt", "--data", tmp_path / "text.txt", *shape, "--dtype", "float16")
    found = []
    for device in ("cpu", "cuda"):
        train(tmp_path / device, "--device", device, *options).check()
        found.append(json.loads((tmp_path / device / "summary.json").read_text()))
    for name in ("train_loss", "validation_loss"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3)
    assert found[0]["loss_scale"] == found[1]["loss_scale"]


def test_tf32_is_of_a_gpu(tmp_path):
    done = train(tmp_path / "run", "--dtype", "tf32")
    assert done.returncode == 2 and "--dtype tf32 is of a GPU's tensor cores" in done.stderr


@pytest.mark.parametrize("options", [("--blas", "mkl")])
def test_what_is_of_the_host_alone_is_refused(tmp_path, options):
    done = train(tmp_path / "run", "--device", "cuda", *options)
    assert done.returncode == 2
    assert "--device cuda" in done.stderr and "Traceback" not in done.stderr
