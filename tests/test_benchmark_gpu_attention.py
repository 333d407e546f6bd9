"""The benchmark of attention on a GPU: refused without one, and tried on the stand-in for CuPy (nothing is timed)."""

import json

import pytest

from tests.device.test_train import STAND_IN
from tests.launch import run_alone

COMMAND = ["-m", "benchmarks.gpu_attention"]
TRIED = [*COMMAND, "--shapes", "1x2x33x64", "--dtypes", "bfloat16", "--rounds", 2, "--seconds", 0.001]


def test_without_a_gpu_it_is_one_line(has_device):
    if has_device:
        pytest.skip("there is a GPU here")
    done = run_alone(COMMAND)
    assert done.returncode == 2 and done.stderr.startswith("error: --device cuda")
    assert done.stderr.count("\n") == 1


def test_shapes_and_types_that_are_none(has_device):
    for given, told in ((["--shapes", "8x12x64"], "8x12x64"), (["--dtypes", "int8"], "int8")):
        done = run_alone([*COMMAND, *given])
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_on_the_stand_in(tmp_path):
    out = tmp_path / "gpu-attention.json"
    done = run_alone([*TRIED, "--torch-device", "cpu", "--out", out], env=STAND_IN)
    case = json.loads(out.read_text())["cases"][0]
    mine, other = case["sides"]["mpidp"], case["sides"]["PyTorch"]
    assert len(mine["forward"]["flops"]) == len(mine["backward"]["flops"]) == 2
    assert 0 < max(mine["errors"]) < 2e-2
    if "failed" in other:
        assert "no PyTorch" in other["failed"] and done.returncode == 1
    else:
        assert 0 < max(other["errors"]) < 2e-2 and done.returncode == 0
    assert "| 1 x 2 x 33 x 64 | bfloat16 | backward |" in out.with_suffix(".md").read_text()
