"""What is known of the routes' speed: read between the sizes, and refused where it does not hold or is broken."""

import dataclasses
import json

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.collectives.calibration import Calibration, from_json, measure, possible
from mpidp.comm import run_ranks

KNOWN = Calibration(
    (0, 0), "threads", "float32", (1000, 100_000), {"ring": (1e-3, 1e-1), "shared": (4e-3, 4e-2)}
)


def test_between_two_sizes_it_is_on_a_line_of_logarithms():
    assert KNOWN.one("ring", 1000) == pytest.approx(1e-3)
    assert KNOWN.one("ring", 10_000) == pytest.approx(1e-2)
    assert KNOWN.one("shared", 10_000) == pytest.approx(4e-3 * 10**0.5)
    assert KNOWN.one("ring", 4) == KNOWN.one("ring", 0) == pytest.approx(1e-3)
    assert KNOWN.one("ring", 300_000) == pytest.approx(3e-1)
    assert (KNOWN.fastest(2000), KNOWN.fastest(90_000)) == ("ring", "shared")


def test_pieces_count_where_the_route_sums_them_beside_backward():
    assert KNOWN.whole("ring", 10_000, 1000) == pytest.approx(10 * KNOWN.one("ring", 1000))
    assert KNOWN.whole("ring", 1000, 1000) == KNOWN.whole("ring", 1000, 5000) == KNOWN.one("ring", 1000)
    assert KNOWN.whole("shared", 10_000, 1000) == KNOWN.one("shared", 10_000)


def test_a_measured_one_has_every_possible_route_and_is_the_same_on_every_rank():
    found = run_ranks(3, lambda comm: measure(comm, np.float32, [40, 4000]))
    assert all(one == found[0] for one in found)
    assert set(found[0].seconds) == set(COLLECTIVES) - {"hierarchical"}
    assert (found[0].hosts, found[0].library, found[0].dtype) == ((0, 0, 0), "threads", "float32")
    assert all(len(times) == 2 and min(times) > 0 for times in found[0].seconds.values())
    assert from_json(found[0].to_json()) == found[0]


@pytest.mark.parametrize(
    ("hosts", "impossible"),
    [([0, 0, 0], {"hierarchical"}), ([0, 1, 2], {"shared", "hierarchical"}), ([0, 1, 0], {"shared"})],
)
def test_only_what_differs_where_the_ranks_are_is_tried(hosts, impossible):
    """On one host hierarchical is shared, with one rank a host ring; shared needs one host."""
    found = run_ranks(3, possible, np.dtype(np.float32), hosts=hosts)
    assert all(set(names) == set(COLLECTIVES) - impossible for names in found)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, None),
        ({"hosts": (0, 1)}, "ranks on the hosts 0, 1"),
        ({"library": "MPICH 4.1.2"}, "MPICH 4.1.2"),
        ({"dtype": "float64"}, "sums of float64"),
        ({"seconds": {"ring": (1.0, 2.0)}}, "the routes ring"),
    ],
)
def test_what_it_is_of_where_that_is_not_here(change, what):
    seconds = dict.fromkeys(set(COLLECTIVES) - {"hierarchical"}, (1.0, 2.0))
    known = dataclasses.replace(KNOWN, **{"seconds": seconds, **change})
    assert run_ranks(2, lambda comm: known.unlike(comm, np.dtype(np.float32))) == [what] * 2


GOOD = json.loads(KNOWN.to_json())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ('{"format"', "not JSON"),
        ("[]", '"format" is not'),
        (json.dumps(GOOD | {"format": "mpidp calibration 0"}), '"format" is not "mpidp calibration 1"'),
        (json.dumps({k: v for k, v in GOOD.items() if k != "hosts"}), "missing"),
        (json.dumps(GOOD | {"hosts": 2}), "missing or not a number"),
        (json.dumps(GOOD | {"seconds": [1, 2]}), "missing or not a number"),
        (json.dumps(GOOD | {"sizes": [2, 1]}), "sizes do not ascend"),
        (json.dumps(GOOD | {"sizes": []}), "sizes do not ascend"),
        (json.dumps(GOOD | {"seconds": {"ring": [1.0]}}), "of ring it has not a time for each size"),
        (json.dumps(GOOD | {"seconds": {"ring": [1.0, -1.0]}}), "of ring it has not a time"),
        (json.dumps(GOOD | {"seconds": {"ring": [1.0, float("nan")]}}), "of ring it has not a time"),
        (json.dumps(GOOD | {"seconds": {}}), "no route"),
    ],
)
def test_a_broken_one_is_told(text, why):
    with pytest.raises(ValueError, match=why):
        from_json(text)
