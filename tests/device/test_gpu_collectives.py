"""The benchmark of sums on GPUs, on the stand-in for CuPy: that it checks and writes; its times mean nothing."""

import json

from tests.device.test_peers import STAND_IN
from tests.launch import run_ranks


def test_it_writes_what_it_measured(tmp_path):
    out = tmp_path / "sums.json"
    command = ["-m", "benchmarks.gpu_collectives", "--sizes", "4K,64K", "--rounds", "2", "--out", out]
    run_ranks(2, command, env=STAND_IN).check()
    report = json.loads(out.read_text())
    ways = {one["way"] for one in report["results"] if one["size_bytes"] == 65536}
    assert ways == {"peer memory", "staged, ring", "staged, pairwise", "staged, mpi"}
    assert all(one["time_us"] > 0 and one["busbw_gb_per_s"] > 0 for one in report["results"])
    assert [one["size_bytes"] for one in report["memory"]] == [4096, 65536] and report["gpus"] == 1
    assert any("NCCL is left out: it refuses several ranks on one GPU" in note for note in report["notes"])
    assert "| peer memory |" in out.with_suffix(".md").read_text()
