"""benchmarks/collectives.py: its formulas, and one tiny run (no claim about times)."""

import importlib.util
import json

import numpy as np
import pytest

from benchmarks import bandwidth
from benchmarks.bandwidth import ALL_REDUCE, REDUCE_SCATTER
from benchmarks.turns import calls_in_a_batch
from tests.launch import run_ranks

TINY = ["--sizes", "4096", "--rounds", "2"]


def test_bandwidths_are_those_of_nccl_tests():
    """1 GB in a tenth of a second on 8 ranks."""
    assert bandwidth.algorithm_bandwidth(10**9, 0.1) == pytest.approx(10)
    assert bandwidth.bus_bandwidth(ALL_REDUCE, 10**9, 0.1, 8) == pytest.approx(17.5)
    assert bandwidth.bus_bandwidth(REDUCE_SCATTER, 10**9, 0.1, 8) == pytest.approx(8.75)
    assert bandwidth.count(ALL_REDUCE, 1024, 8) == 1024
    assert bandwidth.count(REDUCE_SCATTER, 1024, 8) == 128


def test_limit_of_memory():
    """2 ranks, 1 GB each: all-reduce moves 4 GB in all, reduce-scatter 3 GB."""
    assert bandwidth.memory_limit(ALL_REDUCE, 10**9, 2, 10.0) == pytest.approx(0.4)
    assert bandwidth.memory_limit(REDUCE_SCATTER, 10**9, 2, 10.0) == pytest.approx(0.3)


@pytest.mark.parametrize("ranks", [2, 3, 8, 1000])
def test_no_batch_leaves_the_range_of_float32(ranks):
    for size in (4, 4096, 1 << 20, 1 << 27):
        calls = calls_in_a_batch(size, ranks)
        assert calls >= 1
        assert 100.0 * float(ranks) ** calls < np.finfo(np.float32).max


def test_a_run_prints_the_tables_and_writes_the_file(tmp_path):
    out = tmp_path / "new" / "result.json"
    run = run_ranks(2, ["-m", "benchmarks.collectives", *TINY, "--out", out]).check()
    for word in (
        "time",
        "(µs)",
        "busbw",
        "(GB/s)",
        "ring",
        "MPI library",
        "all-reduce",
        "reduce-scatter",
        "memory",
    ):
        assert word in run.stdout

    assert "| size (B) | count | type | route | time (µs) |" in out.with_suffix(".md").read_text()
    report = json.loads(out.read_text())
    assert report["ranks"] == 2 and report["rounds"] == 2
    assert {"cpu", "numpy", "commit"} <= report["environment"].keys()
    yardsticks = {"MPI library"} | ({"gloo"} if importlib.util.find_spec("torch") else set())
    assert ("gloo is left out" in run.stdout) == ("gloo" not in yardsticks)
    for operation in (ALL_REDUCE, REDUCE_SCATTER):
        entries = {e["route"]: e for e in report["results"] if e["operation"] == operation}
        assert yardsticks | {"ring", "mpi"} <= entries.keys()
        assert {name for name, entry in entries.items() if not entry["ours"]} == yardsticks
        for entry in entries.values():
            assert (entry["size_bytes"], len(entry["rounds_us"])) == (4096, 2)
            assert 0 < entry["error"] < 1e-5
            seconds = entry["time_us"]["median"] / 1e6
            assert entry["busbw_gb_per_s"] == pytest.approx(
                bandwidth.bus_bandwidth(operation, 4096, seconds, 2)
            )
        (ratios,) = (line for line in report["ratios"] if line["operation"] == operation)
        best = min((entries[name] for name in yardsticks), key=lambda entry: entry["time_us"]["median"])
        quotients = np.divide(best["rounds_us"], entries["ring"]["rounds_us"])
        assert ratios["ours"]["ring"] == pytest.approx(np.median(quotients))
    assert all(speed > 0 for speed in report["memory"][0].values())


def test_a_wrong_sum_has_no_speed(tmp_path):
    program = """
import dataclasses, sys
from mpidp.collectives import COLLECTIVES
COLLECTIVES["ring"] = dataclasses.replace(COLLECTIVES["ring"], allreduce=lambda *_: None)
from benchmarks.collectives import body, guarded
sys.exit(guarded(lambda comm: body(comm, sys.argv[1:])))
"""
    out = tmp_path / "result.json"
    run = run_ranks(2, ["-c", program, *TINY, "--out", out])
    assert run.returncode
    assert "all-reduce by ring of 4096 bytes is wrong by" in run.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "4096,5x"], "'5x' is no number of bytes"),
        (["--routes", "rong"], "--routes: rong unknown; there are ring"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    run = run_ranks(2, ["-m", "benchmarks.collectives", *arguments])
    assert run.returncode == 2
    assert run.stderr.count("mpidp: error:") == 1 and message in run.stderr
