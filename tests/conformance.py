"""What every strategy must do, as bodies that run on any communicator: ranks as threads, and real ranks.

Nothing here names a strategy: a new line in STRATEGIES is tested as it stands, under the options of its `cases`.
"""

import numpy as np

from mpidp.arrays import to_host
from mpidp.comm import Communicator
from tests.regrouping import Memory, resumed
from tests.runs import LONG, Run, alone, make_model, relative, same_everywhere


def equals_one_process(comm: Communicator, name: str, case: int, dtype=np.float64, limit=1e-12, split="contiguous",
                       collective="ring", steps=100):  # fmt: skip
    """≤ limit relative after 100 steps of plain SGD, uneven shards included, where the strategy says it is exact."""
    run = Run(comm, name, case, dtype=dtype, split=split, collective=collective)
    if run.strategy.exact():
        assert relative(run.steps(steps).merged(), alone(steps, dtype=dtype, split=split)) <= limit


def equals_one_process_in_float32(comm: Communicator, name: str, case: int):
    equals_one_process(comm, name, case, dtype=np.float32, limit=1e-5)


def says_truly_that_it_is_not_exact(comm: Communicator, name: str, case: int):
    """A strategy that could claim exactness but does not would escape the test above."""
    run = Run(comm, name, case)
    if not run.strategy.exact():
        assert relative(run.steps(20).merged(), alone(20)) > 1e-9


def merges_to_the_same_bits(comm: Communicator, name: str, case: int):
    """At any step, by merge into another vector or into `params`."""
    run = Run(comm, name, case)
    for count in (0, 1, 4, 5):
        one = run.steps(count).merged()
        assert np.isfinite(one).all()
        assert same_everywhere(comm, one)
    run.strategy.merge(run.strategy.params)
    assert (to_host(run.strategy.params) == one).all()


def trains_on_as_if_it_were_not_merged(comm: Communicator, name: str, case: int):
    """Merging into another vector leaves the run as it was."""
    run, undisturbed = Run(comm, name, case), Run(comm, name, case)
    for count in (0, 1, 4, 5):
        run.steps(count).merged()
    undisturbed.steps(10)
    if run.strategy.worker is not None and run.strategy.deterministic:
        assert (to_host(run.strategy.params) == to_host(undisturbed.strategy.params)).all()


def starts_equal(comm: Communicator, name: str, case: int):
    run = Run(comm, name, case)
    assert same_everywhere(comm, to_host(run.strategy.params))
    fresh = make_model(np.float64)
    fresh.bind(np.zeros(fresh.size), np.zeros(fresh.size))
    fresh.initialise(0)
    assert (to_host(run.strategy.params) == fresh.params).all()


def sends_what_the_formula_says(comm: Communicator, name: str, case: int, clip=None, collective="ring"):
    """In every step; of what is not deterministic, in all steps together."""
    run = Run(comm, name, case, clip=clip, collective=collective)
    began = run.strategy.comm.traffic.copy()
    for t in range(1, 11) if run.strategy.deterministic else ():
        before = run.strategy.comm.traffic.copy()
        sent = run.steps(1).strategy.comm.traffic - before
        assert (sent.messages, sent.bytes) == run.strategy.cost(t)
    run.steps(10)
    sent = run.strategy.comm.traffic - began
    assert (sent.messages, sent.bytes) == run.strategy.total_cost(run.t)
    run.merged()  # a message that is under way when its memory is given back would be written there all the same


def sends_what_the_formula_says_with_clipping(comm: Communicator, name: str, case: int):
    sends_what_the_formula_says(comm, name, case, clip=1.0)


def resumes_with_the_same_bits(comm: Communicator, name: str, case: int, collective="ring"):
    """Saved after 5 of 11 steps and taken up by a new run, with an optimizer that has state and clipping.

    Where what follows depends on who is late, what was taken up are the same bits.
    """
    settings = {"optimizer": ("adamw", {}), "clip": 0.5, "lr": 0.01, "collective": collective}
    whole = Run(comm, name, case, **settings).steps(5)
    saved = Memory(comm, comm.size, whole.strategy.saved())
    before = whole.merged()
    whole.steps(6)
    again = resumed(comm, saved, 5, name=name, case=case, **settings)
    assert (again.merged() == before).all()
    again.steps(6)
    if not again.strategy.deterministic:
        assert np.isfinite(again.merged()).all()
        return
    assert (again.merged() == whole.merged()).all()
    if again.strategy.worker is not None:
        assert (to_host(again.strategy.params) == to_host(whole.strategy.params)).all()


def survives_empty_shards(comm: Communicator, name: str, case: int):
    """The Dirichlet split leaves workers without samples in some steps; nothing is dropped or counted twice."""
    run = Run(comm, name, case, split="dirichlet")
    merged = run.steps(20).merged()
    assert np.isfinite(merged).all()
    if run.strategy.exact():
        assert relative(merged, alone(20, split="dirichlet")) <= 1e-12


def clips_the_global_gradient(comm: Communicator, name: str, case: int):
    """Where the ranks compute what one does, so they do with clipping (at a norm that many steps exceed)."""
    run = Run(comm, name, case, clip=0.05)
    if run.strategy.exact() and run.strategy.replicated:
        clipped = alone(30, clip=0.05)
        assert relative(run.steps(30).merged(), clipped) <= 1e-12
        assert relative(clipped, alone(30)) > 1e-3


def works_with_longer_messages(comm: Communicator, name: str, case: int):
    """For real ranks: there a send that nobody has asked for yet waits, and must not be written over."""
    run = Run(comm, name, case, hidden=LONG)
    merged = run.steps(20).merged()
    assert same_everywhere(comm, merged) and np.isfinite(merged).all()
    if run.strategy.exact():
        assert relative(merged, alone(20, hidden=LONG)) <= 1e-12


CONTRACTS = [
    equals_one_process,
    equals_one_process_in_float32,
    says_truly_that_it_is_not_exact,
    merges_to_the_same_bits,
    trains_on_as_if_it_were_not_merged,
    starts_equal,
    sends_what_the_formula_says,
    sends_what_the_formula_says_with_clipping,
    resumes_with_the_same_bits,
    survives_empty_shards,
    clips_the_global_gradient,
]
