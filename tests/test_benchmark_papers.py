"""benchmarks/papers: how verdicts are reached, and that an experiment runs (no claim about its figures)."""

import json
import re

import pytest

from benchmarks.papers.__main__ import main, sheets
from benchmarks.papers.claims import EXPERIMENTS
from benchmarks.papers.experiment import AGREES, DISAGREES, PARTLY, gap, signed, times_fewer
from tests.launch import find_mpiexec


def results(**sides):
    """{side: {quantity: values}} of side=(losses, MB sent)."""
    return {
        side: {"validation loss": list(losses), "MB sent": list(sent)}
        for side, (losses, sent) in sides.items()
    }


def test_differences_are_taken_seed_by_seed():
    found = results(a=([1.0, 2.0, 3.0], [1, 1, 1]), b=([1.1, 2.1, 3.1], [4, 4, 4]))
    assert gap(found, "b", "a", "validation loss") == pytest.approx((0.1, 0.0), abs=1e-12)
    assert gap(results(a=([1], [1]), b=([3], [1])), "a", "b", "validation loss") == (-2, 0)
    noisy = results(a=([0.0, 0.0], [1, 1]), b=([0.0, 2.0], [1, 1]))
    assert gap(noisy, "b", "a", "validation loss") == pytest.approx((1.0, 2.0))  # 2 * sqrt(2) / sqrt(2)
    assert times_fewer(found, "a", "b") == 4
    assert signed(-0.5, 0.25, 2) == "-0.50 ± 0.25"


def test_verdict_on_diloco():
    def judged(fifty, five_hundred):
        sides = {
            "data parallel": ([1.0, 1.1], [100, 100]),
            "DiLoCo, H = 50": ([fifty, fifty + 0.1], [2, 2]),
            "DiLoCo, H = 500": ([five_hundred, five_hundred + 0.1], [0.2, 0.2]),
        }
        return EXPERIMENTS["diloco"].judge(results(**sides))

    assert judged(0.9, 0.95).here == AGREES and "H = 50 sends 50 times less" in judged(0.9, 0.95).text
    assert judged(0.9, 1.2).here == PARTLY
    assert judged(1.1, 1.2).here == DISAGREES


def test_verdict_on_asynchronous_servers():
    def judged(rate):
        rates = {
            "synchronous": 100,
            "asynchronous": 100,
            "synchronous, one slowed": 33,
            "asynchronous, one slowed": rate,
        }
        return EXPERIMENTS["asynchronous"].judge(
            {side: {"samples a second": [value], "validation loss": [1.0]} for side, value in rates.items()}
        )

    assert judged(66).here == AGREES and "keeps 33 %, the asynchronous one 66 %" in judged(66).text
    assert judged(40).here == DISAGREES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_say_what_they_need(name):
    experiment = EXPERIMENTS[name]
    assert experiment.claim and re.search(r"\d{4}\.\d{5}|NIPS", experiment.source)
    assert len(experiment.sides) > 1 and experiment.ranks <= 8 and experiment.shown


def test_an_experiment_runs_and_is_written_down(tmp_path, capsys):
    if find_mpiexec() is None:
        pytest.skip("no mpiexec beside this Python or on PATH: pip install 'mpidp[mpich]'")
    out = tmp_path / "papers.json"
    assert main(["--only", "splits", "--quick", "--out", str(out)]) == 0
    assert "what papers claim" in capsys.readouterr().out.lower()
    (found,) = json.loads(out.read_text())["experiments"]
    assert set(found["results"]) == set(EXPERIMENTS["splits"].sides) and not found["refused"]
    for side in found["results"].values():
        assert all(len(values) == 1 for values in side.values())
        assert 0 < side["correct"][0] < 100 and side["MB sent"][0] > 0
    text = out.with_suffix(".md").read_text()
    assert "| experiment | claim | source | here |" in text and "--quick: far too few" in text


def test_a_side_that_is_refused_leaves_the_verdict_open():
    found = {
        "name": "x", "claim": "c", "source": "s", "ranks": 2, "seeds": 1, "shown": [["validation loss", "", 2]],
        "sides": {"a": "--sync none", "b": "--sync nothing"}, "refused": {"b": "--sync nothing: no such name"},
        "results": {"a": {"validation loss": [1.0]}}, "here": "open", "verdict": "", "why": "",
    }  # fmt: skip
    first, figures = sheets({"experiments": [found]})
    assert first.rows[0][3] == "open"
    assert figures.rows == [["a", "--sync none", "1.00"], ["b", "--sync nothing: no such name", ""]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "splits,magic"], "--only: magic unknown; there are diloco"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
