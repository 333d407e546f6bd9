"""The strategy of CONTRIBUTING.md's recipe, taken from the page and run."""

import re

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.nn.layer import Parameter, constant
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import STRATEGIES, Setup, Step, Strategy
from tests.launch import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SIZE, STEPS = 13, 6


def leader() -> type[Strategy]:
    (code,) = re.findall(r"^<!-- strategy -->\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names["Leader"]


def train(comm, strategy_type: type[Strategy], clip: float | None) -> np.ndarray:
    """A few AdamW steps on gradients that differ from rank to rank; the merged parameters."""
    optimizer = OPTIMIZERS["adamw"]
    parameter = Parameter("weight", (SIZE,), constant(1.0))
    parameter.lo, parameter.hi = 0, SIZE
    setup = Setup(
        comm=comm,
        size=SIZE,
        dtype=np.float64,
        xp=np,
        optimizer=lambda lo, hi, like: optimizer(optimizer.Options(), [parameter], lo, hi, like),
        collective=COLLECTIVES["ring"],
        clip=clip,
    )
    strategy = strategy_type(setup, strategy_type.Options())
    params, grads = strategy.allocate()
    params[...] = 1.0
    strategy.start()
    for t in range(1, STEPS + 1):
        grads[...] = np.random.default_rng([comm.rank, t]).normal(size=SIZE)
        strategy.step(Step(t, 1, comm.size, 0.1))
    merged = np.empty(SIZE)
    strategy.merge(merged)
    return merged


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_example_does_what_it_says(ranks, clip):
    expected = run_ranks(ranks, train, STRATEGIES["allreduce"], clip)
    found = run_ranks(ranks, train, leader(), clip)
    assert not np.array_equal(found[0], np.ones(SIZE))
    for merged in found:
        assert merged.tobytes() == expected[0].tobytes()


def test_the_example_is_one_file_and_one_line():
    assert "STRATEGIES" in PAGE and '`"leader": Leader,`' in PAGE
    assert "leader" not in STRATEGIES
