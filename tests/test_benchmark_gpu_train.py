"""The benchmark of training on a GPU: refused without one, and tried on the stand-in for CuPy (nothing is timed)."""

import json

import pytest

from benchmarks.gpu_tables import wrong
from benchmarks.gpu_train import models, operations
from tests.device.test_train import STAND_IN
from tests.launch import run_alone

TRIED = [
    "--cases",
    "tiny",
    "--batch",
    1,
    "--dtypes",
    "float32",
    "--rounds",
    2,
    "--seconds",
    0.001,
    "--square",
    16,
]


def test_without_a_gpu_it_is_one_line(has_device):
    if has_device:
        pytest.skip("there is a GPU here")
    done = run_alone(["-m", "benchmarks.gpu_train"])
    assert done.returncode == 2 and done.stderr.startswith("error: --device cuda")
    assert done.stderr.count("\n") == 1


def test_on_the_stand_in(tmp_path):
    out = tmp_path / "gpu-train.json"
    done = run_alone(
        ["-m", "benchmarks.gpu_train", *TRIED, "--torch-device", "cpu", "--out", out], env=STAND_IN
    )
    found = json.loads(out.read_text())
    case = found["cases"]["tiny"]["float32"]
    mine, other = case["sides"]["mpidp"], case["sides"]["PyTorch"]
    assert len(mine["samples_per_second"]) == 2 and mine["losses"][-1] < mine["losses"][0]
    assert found["curve"]["difference"] < 1e-5
    if "failed" in other:
        assert "no PyTorch" in other["failed"] and done.returncode == 1
    else:
        assert case["loss_difference"] < 1e-5 and done.returncode == 0
    assert wrong(found) == (["tiny in float32"] if "failed" in other else [])
    assert "| tiny | float32 | 1 |" in out.with_suffix(".md").read_text()


def test_operations_of_gpt_2():
    """6 N + 12 L d T a token."""
    assert operations(models()["gpt2"], 124_439_808) == 1024 * (6 * 124_439_808 + 12 * 12 * 768 * 1024)
