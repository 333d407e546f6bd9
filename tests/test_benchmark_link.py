"""benchmarks/link.py on two hosts of one machine, in its smallest form (no claim about times)."""

import json
import os
import subprocess

import pytest

from benchmarks.groups import BenchmarkError
from benchmarks.hosts import placement, two_hosts
from benchmarks.link import main
from mpidp.comm.probe import library
from mpidp.errors import UserError

A, B = "10.77.0.1", "10.77.0.2"


@pytest.fixture
def two():
    """Skip, with the reason, where this machine does not allow two hosts."""
    if "MPICH" not in library().vendor:
        pytest.skip("needs MPICH's mpirun")
    try:
        with two_hosts("1gbit"):
            pass
    except UserError as error:
        pytest.skip(str(error))


def spaces() -> str:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return listed.stdout


def test_ranks_are_placed_host_by_host_or_in_turn():
    assert placement((2, 1)) == [A, A, B]
    assert placement((3, 2), cyclic=True) == [A, B, A, B, A]


def test_sums_over_two_hosts(two, tmp_path, capsys):
    """The sums are right (the ranks compare them), and the link carries what the formula of the ring says."""
    out = tmp_path / "link.json"
    assert main(["--only", "sums", "--sizes", "64K", "--rounds", "2", "--out", str(out)]) == 0
    assert "block placement" in capsys.readouterr().out
    assert "| size (B) | route |" in out.with_suffix(".md").read_text()
    report = json.loads(out.read_text())
    assert [found["hosts"] for found in report["sums"]] == [
        ["host1", "host1", "host2", "host2"],
        ["host1", "host2", "host1", "host2"],
    ]
    for found in report["sums"]:
        (line,) = (line for line in found["sums"] if line["route"] == "hierarchical")
        assert (
            2 * 65536 <= line["link_bytes"] < 1.2 * 2 * 65536 + 20_000
        )  # 2 n (H - 1) of both hosts together
        assert line["times_flat_ring"] > 0
    for found, crossings in zip(report["sums"], (2, 4), strict=True):  # of the ring's four neighbourhoods
        (flat,) = (line for line in found["sums"] if line["route"] == "ring")
        payload = crossings * 2 * 65536 * 3 // 4
        assert payload <= flat["link_bytes"] < 1.2 * payload + 20_000
        assert flat["times_flat_ring"] == 1
    assert f"mpidp-{os.getpid()}" not in spaces()


PROGRAM = """
import sys
import numpy as np
from mpidp.comm.world import start
from tests.conformance import equals_one_process, resumes_with_the_same_bits
from tests.routes import check_hosts, check_route
comm = start()
check_hosts(comm.Dup(), [int(host) for host in sys.argv[1]])
for length in (0, 1, 7, 1001, 1_000_000):
    check_route(comm, "hierarchical", length, np.float32)
for name in ("allreduce", "sharded"):
    equals_one_process(comm, name, 0, collective="hierarchical")
    resumes_with_the_same_bits(comm, name, 0, collective="hierarchical")
"""


@pytest.mark.parametrize(
    ("counts", "cyclic", "hosts"),
    [((2, 2), False, "0011"), ((2, 2), True, "0101"), ((3, 1), False, "0001")],
)
def test_hierarchical_over_real_ranks_on_two_hosts(two, counts, cyclic, hosts):
    with two_hosts("10gbit") as both:
        both.run(placement(counts, cyclic), ["-c", PROGRAM, hosts], 100)


def test_ranks_that_fail_are_told_and_leave_nothing(two):
    with two_hosts("1gbit") as hosts:
        assert hosts.name in spaces()
        with pytest.raises(BenchmarkError, match="ended with code"):
            hosts.run(placement((1, 1)), ["-c", "raise SystemExit(3)"], 30)
        with pytest.raises(BenchmarkError, match=r"were not done after 1 s"):
            hosts.run(placement((1, 1)), ["-c", "import time; time.sleep(60)"], 1)
    assert hosts.name not in spaces()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routes", "rong"], "--routes: rong unknown; there are ring"),
        (["--only", "nothing"], "--only: nothing unknown; there are sums, training"),
        (["--case", "huge"], "--case huge unknown; there are tiny"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_rate_that_tc_does_not_know_is_refused(two, capsys):
    assert main(["--rate", "1gbt"]) == 2
    assert 'illegal value for "rate"' in capsys.readouterr().err
