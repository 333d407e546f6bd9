"""All contracts of every strategy on a GPU that the ranks, threads, share."""

import pytest

from mpidp.comm import run_ranks
from mpidp.strategies import STRATEGIES
from tests.conformance import CONTRACTS
from tests.on_device.strategies import POSSIBLE, few_ranks
from tests.on_device.sums import on_device
from tests.regrouping import goes_on_with_other_ranks

STEP_BY_STEP = "sends_what_the_formula_says"
"""A staged message counts when it leaves, maybe in the next step: tests/on_device/strategies.py counts all of a run."""


@pytest.mark.parametrize(("name", "case"), POSSIBLE)
@pytest.mark.parametrize(
    "contract",
    [contract for contract in CONTRACTS if not contract.__name__.startswith(STEP_BY_STEP)],
    ids=lambda contract: contract.__name__,
)
def test_contract(cupy, contract, name, case):
    run_ranks(few_ranks(name, case), on_device(cupy, contract), name, case)


@pytest.mark.parametrize("name", STRATEGIES)
def test_goes_on_with_other_ranks(cupy, name):
    run_ranks(few_ranks(name, 0), on_device(cupy, goes_on_with_other_ranks), name, 0)
