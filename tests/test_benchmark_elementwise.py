"""That the benchmark of passes over arrays starts, measures every way, and writes what it found."""

import json

from tests.launch import run_alone


def test_it_runs(tmp_path):
    out = tmp_path / "elementwise.json"
    finished = run_alone(["-m", "benchmarks.elementwise", "--rounds", "1", "--out", out]).check()
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["ns_per_element"]) == 5
    assert all(ns > 0 for ways in report["ns_per_element"].values() for ns in ways.values())
    assert out.with_suffix(".md").read_text(encoding="utf-8").strip() in finished.stdout
