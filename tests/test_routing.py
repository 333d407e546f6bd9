"""Which route a run takes: named, measured at start, or known from a file that fits; and what it says of it."""

import dataclasses

import numpy as np
import pytest

from mpidp import routing
from mpidp.collectives import COLLECTIVES
from mpidp.collectives.calibration import Calibration, from_json
from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError

KNOWN = Calibration(
    (0, 0),
    "threads",
    "float32",
    (1000, 100_000),
    {name: (1.0, 2.0) for name in COLLECTIVES if name != "hierarchical"} | {"tree": (0.5, 3.0)},
)


def choose(file=None, name="auto", ranks=2, nbytes=1000, piece=1000, fits=lambda route: True, hosts=None):
    path = None if file is None else str(file)
    body = lambda comm: routing.choose(comm, name, path, nbytes, piece, np.float32, fits)  # noqa: E731
    choices = run_ranks(ranks, body, hosts=hosts)
    assert all(choice == choices[0] for choice in choices)
    return choices[0]


def test_a_route_that_is_named_is_taken_where_it_can_be():
    assert str(choose(name="ring")) == "ring"
    with pytest.raises(SharedError, match="--collective shared: the ranks are on several hosts"):
        choose(name="shared", hosts=[0, 1])


def test_without_a_file_the_fastest_is_measured():
    choice = choose()
    assert choice.source == "measured now"
    assert choice.seconds[choice.name] == min(choice.seconds.values())
    assert set(choice.seconds) == set(COLLECTIVES) - {"hierarchical"}
    assert str(choice).startswith(f"{choice.name} (auto, measured now: ring ")


def test_of_those_that_fit_alone():
    choice = choose(fits=lambda route: route.reduce_scatter is not None)
    assert "tree" not in choice.seconds and "ring" in choice.seconds


def test_what_does_not_fit_is_not_measured_and_one_alone_not_either(monkeypatch):
    measured, measure = [], routing.measure
    monkeypatch.setattr(
        routing, "measure", lambda *args: measured.append(sorted(args[3])) or measure(*args)
    )  # every rank
    assert choose(fits=lambda route: route.name == "pairwise") == routing.Choice("pairwise")
    assert measured == []
    choose(fits=lambda route: route.name in ("pairwise", "ring"))
    assert measured == [["pairwise", "ring"]] * 2


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(KNOWN.to_json())
    return path


def test_a_file_that_fits_is_believed(file):
    before = file.read_bytes()
    choice = choose(file)
    assert (choice.name, choice.source) == ("tree", f"from {file}")
    assert choice.seconds["tree"] == 0.5
    assert choose(file, nbytes=100_000, piece=100_000).name != "tree"
    assert choose(file, nbytes=100_000, piece=1000).name == "shared"  # the others go by pieces
    assert file.read_bytes() == before


def test_where_there_is_none_it_is_measured_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        routing, "measure", lambda comm, dtype: dataclasses.replace(KNOWN, hosts=comm.hosts())
    )
    path = tmp_path / "new" / "calibration.json"
    assert choose(path).source == f"measured now and kept in {path}"
    assert from_json(path.read_text()) == KNOWN
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert choose(path).source == f"from {path}"
    assert (
        choose(path, ranks=3).source
        == f"measured now and kept in {path}, which was of ranks on the hosts 0, 0"
    )
    assert from_json(path.read_text()).hosts == (0, 0, 0)


def test_a_broken_file_is_refused_and_left(file):
    file.write_text("{")
    with pytest.raises(SharedError, match=f"--calibration {file}: it is not JSON: remove that file"):
        choose(file)
    assert file.read_text() == "{"
    file.write_bytes(b"\xff")
    with pytest.raises(SharedError, match="it is not text"):
        choose(file)


def test_a_place_that_cannot_be_read_or_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(routing, "measure", lambda comm, dtype: KNOWN)
    with pytest.raises(SharedError, match="cannot be read: Is a directory"):
        choose(tmp_path)
    with pytest.raises(SharedError, match="cannot be written"):
        choose("/proc/none/calibration.json")
