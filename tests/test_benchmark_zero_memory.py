"""That the measurement of memory runs, and that a rank keeps what ZeRO says and not much more."""

import json
import sys

import pytest

from benchmarks import zero_memory
from benchmarks.zero_memory import WAYS
from tests.launch import find_mpiexec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")


def test_it_measures(tmp_path, monkeypatch):
    """Beyond the formula: activations, the MPI library's buffers, buckets under way; stage 1: the ring's landing."""
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    ways = ["sharded", "sharded --stage 2"]
    monkeypatch.setattr(zero_memory, "WAYS", {way: WAYS[way] for way in ways})
    out = tmp_path / "memory.json"
    code = zero_memory.main(
        ["--ranks", "2", "--width", "512", "--layers", "40", "--steps", "2", "--out", str(out)]
    )
    one, two = json.loads(out.read_text())["results"]
    assert code == 0 and one["parameters"] == two["parameters"] > 1e7
    assert (one["formula"], two["formula"]) == (12, 10)
    landing = 4 * one["parameters"] / 2 / 2**20
    assert 0 < one["beyond_mib"] - landing < 45 and 0 < two["beyond_mib"] < 45
    assert two["measured"] < one["measured"] - 1.5
    assert "| 2 | sharded --stage 2 | 10.00 |" in out.with_suffix(".md").read_text()


def test_mistakes(capsys):
    assert zero_memory.main(["--ranks", "0"]) == zero_memory.main(["--width", "0"]) == 2
    assert "--ranks 0" in capsys.readouterr().err
