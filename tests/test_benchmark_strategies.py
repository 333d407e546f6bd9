"""benchmarks/strategies: one short launch, its files, and the parts that make them (no claim about times)."""

import importlib.util
import json
import os
import re

import pytest

from benchmarks.strategies import page, plots, runs, tables
from benchmarks.strategies.record import fewer, plain_bytes
from benchmarks.watched import options_of
from mpidp.errors import UserError
from tests.launch import run_ranks

SMALL = [
    "--model",
    "mlp",
    "--data",
    "synthetic-classes",
    "--batch-size",
    "9",
    "--steps",
    "6",
    "--features",
    "5",
]
APART = [
    "server --consistency stale",
    "server --consistency asynchronous --delay-compensation 0.1",
    "server --backup-workers 1",
    "onesided",
]
"""Whose ranks do not wait for each other in every step."""
LATE = "streaming --period 4 --delay 1"
ALL = [
    "allreduce",
    "averaging --period 3",
    "sharded --collective shared",
    "server",
    "sideways",
    "none",
    LATE,
    *APART,
]
DRAWN = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A launch of 3 ranks: (its folder, what it printed, the report)."""
    folder = tmp_path_factory.mktemp("strategies")
    options = ["--runs", "; ".join(ALL), "--networks", "1gbe,wan", "--out", folder / "x.json"]
    finished = run_ranks(
        3, ["-m", "benchmarks.strategies", *options, "--", *SMALL], env={"TMPDIR": str(folder)}
    )
    return folder, finished.check().stdout, json.loads((folder / "x.json").read_text())


def test_every_run_is_listed_and_a_refused_one_says_why(launched):
    folder, printed, report = launched
    assert [run["name"] for run in report["runs"]] == [name for name in ALL if name != "sideways"]
    (refused,) = report["refused"]
    assert refused["name"] == "sideways" and "--sync sideways: no such name" in refused["reason"]
    assert "sideways" in printed and "(kB a step)" in printed
    assert "| sideways |" in (folder / "x.md").read_text()
    assert ("curves are left out" in printed) != DRAWN
    wanted = {"x.json", "x.md", "x.html"} | ({"x.png"} if DRAWN else set())
    assert {
        name for name in os.listdir(folder) if not name.startswith("pytest")
    } == wanted  # no run directory


def test_losses_and_traffic_are_those_of_the_strategies(launched):
    _, _, report = launched
    found = {run["name"]: run for run in report["runs"]}
    n = 4 * found["none"]["parameters"]
    plain = found["allreduce"]
    assert plain["messages_a_step"] == [4, 4, 4] and sum(plain["bytes_a_step"]) == 2 * 2 * n
    assert plain["times_fewer_bytes"] == pytest.approx(1)
    assert found["averaging --period 3"]["times_fewer_bytes"] == pytest.approx(3)
    assert found["none"]["times_fewer_bytes"] is None and found["none"]["bytes_a_step"] == [0, 0, 0]
    assert found["server"]["bytes_a_step"] == [n, n, 2 * n] and found["server"]["workers"] == 2
    assert found["sharded --collective shared"]["validation_loss"] == pytest.approx(
        plain["validation_loss"], rel=1e-5
    )
    for run in report["runs"]:
        assert run["curves"]["validation_loss"][0] == pytest.approx(run["validation_loss_before"], abs=1e-6)
        assert run["curves"]["validation_loss"][-1] == pytest.approx(run["validation_loss"], abs=1e-6)
        assert run["curves"]["steps"][-1] == 6 and run["imbalance"] >= 1
        assert len({len(run["curves"][name]) for name in ("steps", "bytes", "seconds", "train_loss")}) == 1


def test_modelled_times(launched):
    _, _, report = launched
    found = {run["name"]: run for run in report["runs"]}
    assert (
        found["allreduce"]["modelled_s"]["wan"]
        > 6 * 4 * 0.05
        > found["averaging --period 3"]["modelled_s"]["wan"]
    )
    for name in ("allreduce", "averaging --period 3", "server", "none"):
        assert found[name]["replay_sends_the_same"] is True
        assert found[name]["modelled_s"]["wan"] > 0 < found[name]["modelled_s"]["1gbe"]
    for name in APART:
        assert found[name]["not_modelled"] == {} and min(found[name]["bytes_a_step"]) > 0
        assert found[name]["modelled_s"]["wan"] > found[name]["modelled_s"]["1gbe"] > 0
    # A sum that an evaluation waits for, here after every step, is counted in its step all the same.
    assert found[LATE]["replay_sends_the_same"] is True and min(found[LATE]["bytes_a_step"]) > 0
    shared = found["sharded --collective shared"]
    assert shared["modelled_s"] == {} and "share no memory" in shared["not_modelled"]["wan"]
    assert any("no modelled time for sharded --collective shared" in note for note in report["notes"])


def test_the_page_needs_nothing_beside_it(launched):
    folder, _, report = launched
    text = (folder / "x.html").read_text()
    assert "http" not in text and "src=" not in text and "@import" not in text
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", text))
    assert text.count("<svg") == (len(plots.charts(report)) + len(report["runs"]) if DRAWN else 0)
    for run in report["runs"]:
        assert f">{run['name']}</td>" in text
    assert "currentColor" in text or not DRAWN
    assert len(text) < 1_000_000


def test_cells_are_sorted_by_their_numbers():
    assert [page.value(text) for text in ("1,234", "1 to 3", "482 to 1,447")] == ["1234.0", "3.0", "1447.0"]
    assert float(page.value("∞")) < float(page.value("–"))
    assert page.value("allreduce") == "allreduce"


def test_figures_for_people():
    assert [tables.number(x) for x in (0, 0.0123, 1.234, 99.96, 12345.6, 1e-5)] == [
        "0", "0.0123", "1.23", "100", "12,346", "<0.001",
    ]  # fmt: skip
    assert tables.span([1, 3, 2], tables.number) == "1 to 3" and tables.span([2, 2], tables.number) == "2"


def test_plain_all_reduce_is_what_the_formula_says():
    summary = {"parameters": 1000, "dtype": "float32", "ranks": 4}
    assert plain_bytes(summary) == 2 * 3 * 4 * 250
    assert fewer(summary, 600.0) == 10 and fewer(summary, 0.0) is None
    assert plain_bytes(summary | {"dtype": "bfloat16", "ranks": 1}) == 0


def test_runs_are_lists_and_grids():
    assert runs.listed(" allreduce;averaging  --period 8; ") == ["allreduce", "averaging --period 8"]
    assert runs.grid("sync=allreduce,sharded collective=ring,tree") == [
        "allreduce --collective ring", "allreduce --collective tree",
        "sharded --collective ring", "sharded --collective tree",
    ]  # fmt: skip
    assert options_of("averaging --period 8") == ["--sync", "averaging", "--period", "8"]
    assert options_of("--seed 3") == ["--seed", "3"]


def test_a_run_that_names_no_route_takes_one_that_sends():
    assert runs.arguments("sharded", ["--steps", "3"]) == [
        "--steps",
        "3",
        "--sync",
        "sharded",
        "--collective",
        "ring",
    ]
    assert runs.arguments("sharded --collective auto", []) == ["--sync", "sharded", "--collective", "auto"]
    assert runs.arguments("allreduce", ["--collective", "mpi"]) == [
        "--collective",
        "mpi",
        "--sync",
        "allreduce",
    ]
    assert runs.arguments("server", []) == ["--sync", "server"]
    assert "--collective" not in runs.arguments("allreduce --reproducible 8", [])
    assert runs.completed([*SMALL, "--eval-every", "2"])[-4:] == ["--eval-every", "2", "--log-every", "1"]


@pytest.mark.parametrize("name", runs.PRESETS)
def test_presets_name_every_run_once(name):
    assert len(set(runs.PRESETS[name])) == len(runs.PRESETS[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", " ; "], "--runs names no run"),
        (["--grid", "sync"], "--grid: 'sync' is no option with values"),
        (["--preset", "best"], "--preset best: there are default, routes"),
        (["--networks", "2gbe"], "--networks: 2gbe unknown; there are 1gbe, 10gbe"),
        (["--replay", "0"], "--replay 0: must be at least 1"),
        (["--runs", "none", "--grid", "sync=none"], "--runs, --grid and --preset each say what is to run"),
        (["--", "--model", "mlpp"], "--model mlpp: no such name; did you mean mlp?"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    from benchmarks.strategies.__main__ import parse

    with pytest.raises(UserError, match=re.escape(message)):
        parse(arguments)
