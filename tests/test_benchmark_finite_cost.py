"""That the benchmark of the watch over numbers starts and measures every case."""

from benchmarks.finite_cost import CASES, measured


def test_it_runs():
    without, with_it = measured(CASES["CNN"], 0.0)
    assert len(without) == len(with_it) >= 4 and min(without + with_it) > 0
