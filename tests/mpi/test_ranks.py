"""The same bodies as in the tests with threads, on real ranks."""

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm.world import start
from mpidp.strategies import STRATEGIES
from tests import conformance
from tests.conformance import CASES, CONTRACTS, possible
from tests.routes import (
    check_broadcast,
    check_hosts,
    check_route,
    check_shared_memory,
    check_verbs,
    check_waiting_for_any,
    check_window,
)  # fmt: skip

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def comm():
    return start()


def test_verbs(comm):
    check_verbs(comm)


def test_waiting_for_any(comm):
    check_waiting_for_any(comm.Dup())


def test_window(comm):
    check_window(comm.Dup())


def test_shared_memory(comm):
    check_shared_memory(comm.Dup())


def test_hosts(comm):
    """Here all are on one; tests/test_benchmark_link.py has real ranks on two."""
    check_hosts(comm.Dup(), [0] * comm.size)


@pytest.mark.parametrize("route", COLLECTIVES)
def test_routes(comm, route):
    for length in (0, 1, 5, 64, 1001, 300_000):
        for dtype in (np.float32, np.float64):
            check_route(comm, route, length, dtype)


def test_broadcast(comm):
    for root in range(comm.size):
        check_broadcast(comm, root)


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_contract(comm, contract, name, case):
    if not possible(name, case, comm.size):
        pytest.skip(f"{name} needs more than {comm.size} rank(s)")
    contract(comm, name, case)


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if strategy.uses_collective])
def test_through_shared_memory(comm, name):
    conformance.equals_one_process(comm, name, 0, collective="shared")
    conformance.resumes_with_the_same_bits(comm, name, 0, collective="shared")


@pytest.mark.parametrize(("name", "case"), CASES)
def test_equals_one_process_in_float32(comm, name, case):
    if possible(name, case, comm.size):
        conformance.equals_one_process(comm, name, case, dtype=np.float32, limit=1e-5)
