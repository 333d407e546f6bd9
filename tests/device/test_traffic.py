"""What the count of bytes says of a small GPT, against a few that are known."""

import json
import subprocess
import sys

from tests.launch import ROOT


def test_bytes_of_a_step(tmp_path):
    shape = ("--size", "tiny", "--batch", "2", "--tokens", "32", "--out", tmp_path / "found.json")
    command = [sys.executable, "-m", "benchmarks.gpu_traffic", *shape]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    found = json.loads((tmp_path / "found.json").read_text())
    rows, width, layers, vocabulary = 2 * 32, 128, 4, 256
    assert found["launches"]["products"] == 3 * (4 * layers + 1)
    assert found["launches"]["gelu"] == found["launches"]["attention"] == layers
    assert found["written"]["gelu"] == layers * rows * 4 * width * 2  # bfloat16
    assert found["written"]["softmax_cross_entropy"] == rows * (vocabulary * 2 + 4)
