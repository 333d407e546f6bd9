"""The contracts of every strategy in the registry, with ranks as threads."""

from functools import partial

import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.strategies import STRATEGIES
from tests import conformance
from tests.conformance import CONTRACTS
from tests.regrouping import goes_on_with_other_ranks
from tests.runs import CASES, rank_counts

GRID = [(name, case, ranks) for name, case in CASES for ranks in rank_counts(name, case)]


@pytest.mark.parametrize(("name", "case", "ranks"), GRID)
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_contract(contract, name, case, ranks):
    run_ranks(ranks, contract, name, case)


@pytest.mark.parametrize(("name", "case", "ranks"), GRID)
def test_goes_on_with_other_ranks(name, case, ranks):
    run_ranks(ranks, goes_on_with_other_ranks, name, case)


@pytest.mark.parametrize("split", ["strided", "random", "hash"])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_equals_one_process_however_the_samples_are_split(name, case, split):
    run_ranks(4, partial(conformance.equals_one_process, split=split), name, case)


ROUTED = [(name, case) for name, case in CASES if STRATEGIES[name].uses_collective]


PAIRS = [
    (name, case, route)
    for name, case in ROUTED
    for route in COLLECTIVES
    if COLLECTIVES[route].reduce_scatter is not None or not STRATEGIES[name].scatters
    if case == 0 and route != "ring"
]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("name", "case", "route"), PAIRS)
def test_by_every_route(name, case, ranks, route):
    for contract in (conformance.equals_one_process, conformance.sends_what_the_formula_says):
        run_ranks(ranks, partial(contract, collective=route), name, case)


@pytest.mark.parametrize(("name", "case"), ROUTED)
def test_resumes_with_the_same_bits_through_shared_memory(name, case):
    run_ranks(3, partial(conformance.resumes_with_the_same_bits, collective="shared"), name, case)


@pytest.mark.parametrize("hosts", [[0, 0, 1, 1], [0, 1, 0]], ids=str)
@pytest.mark.parametrize(("name", "case"), ROUTED)
def test_over_several_hosts(name, case, hosts):
    """By the route made for them, with one copy of the parameters on each host where the strategy shares them."""
    for contract in (
        conformance.equals_one_process,
        conformance.sends_what_the_formula_says,
        conformance.resumes_with_the_same_bits,
    ):
        run_ranks(len(hosts), partial(contract, collective="hierarchical"), name, case, hosts=hosts)
