"""Streaming DiLoCo: the paper's algorithm written out, DiLoCo where it is DiLoCo, and sums that nobody waits for."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.evaluation import merged
from mpidp.strategies.streaming import StreamingOptions, cut
from tests.runs import Run, relative
from tests.strategies.quadratic import (
    LENGTHS,
    LR,
    Descent,
    N,
    gradient,
    mean_of,
    origin,
    parameters,
    samples,
    trained,
)

RANKS = 3
PAPER = {"period": 6, "fragments": 2, "delay": 2, "blend": 0.5}


def written_out(steps, period, fragments, delay, blend, lr=0.7, mu=0.9):
    """2501.18512, algorithm 2: all replicas in one list, fragment by fragment, the sum used `delay` steps later."""
    parts = cut(parameters(), fragments)
    common, replicas, u = origin(), [origin() for _ in range(RANKS)], np.zeros(N)
    worked, sent = np.zeros((fragments, RANKS)), {}
    for t in range(1, steps + 1):
        for r in range(RANKS):
            if samples(r, t):
                replicas[r] = replicas[r] - LR * gradient(r, replicas[r])
        worked += [samples(r, t) for r in range(RANKS)]
        for f, part in enumerate(parts):
            if (t - f * period // fragments) % period == 0:
                sent[f] = (t + delay, common[part] - mean_of([x[part] for x in replicas], worked[f]))
            if f in sent and sent[f][0] == t:
                outer_gradient = sent.pop(f)[1]
                u[part] = mu * u[part] + outer_gradient
                common[part] = common[part] - lr * (outer_gradient + mu * u[part])
                for x in replicas:
                    x[part] = blend * x[part] + (1 - blend) * common[part]
                worked[f] = 0
    merged = np.empty(N)
    for f, part in enumerate(parts):
        merged[part] = mean_of([x[part] for x in replicas], worked[f] if worked[f].any() else np.ones(RANKS))
    return merged


@pytest.mark.parametrize("steps", [12, 13, 17])
@pytest.mark.parametrize(
    "options",
    [
        PAPER,
        PAPER | {"blend": 0.0},
        PAPER | {"delay": 0},
        {"period": 6, "fragments": 6, "delay": 0, "blend": 0.25},
        {"period": 5, "fragments": 1, "delay": 4, "blend": 0.9},
    ],
    ids=str,
)
def test_the_method_of_the_paper(options, steps):
    assert relative(trained(RANKS, "streaming", steps, **options), written_out(steps, **options)) < 1e-13


@pytest.mark.parametrize("collective", ["ring", "shared"])
def test_one_fragment_without_delay_and_blend_is_diloco_bit_for_bit(collective):
    def body(comm):
        how = {"period": 4, "collective": collective, "optimizer": ("adamw", {})}
        streaming = Descent(comm, "streaming", fragments=1, delay=0, blend=0.0, **how)
        diloco = Descent(comm, "averaging", outer="sgd", **how)
        return [
            (streaming.steps(1).merged() == diloco.steps(1).merged()).all()
            and (streaming.params == diloco.params).all()
            for _ in range(10)
        ]

    assert run_ranks(RANKS, body) == [[True] * 10] * RANKS


# Sums beside the steps


def test_a_sum_goes_on_during_backward_and_is_used_when_it_is_due():
    def body(comm):
        run = Descent(comm, "streaming", **PAPER).steps(3)  # the second fragment starts
        strategy = run.strategy
        assert strategy.cost(3) == (0, 0) and strategy.cost(5)[0] == 2
        at_start = strategy.under_way
        assert at_start is not None
        deadline = time.monotonic() + 20
        while at_start.pending is not None and time.monotonic() < deadline:
            strategy.advance()  # as backward calls it: nobody waits
            time.sleep(1e-4)
        assert at_start.pending is None
        params, anchor = run.params.copy(), strategy.anchor.copy()
        strategy.advance()
        assert (run.params == params).all() and (strategy.anchor == anchor).all()
        run.steps(1)
        assert (strategy.anchor == anchor).all()
        run.steps(1)
        changed = strategy.anchor != anchor
        part = strategy.parts[1]
        return changed[part].all() and not changed[: part.start].any()

    assert all(run_ranks(2, body))


@pytest.mark.parametrize("collective", ["ring", "shared", "mpi"], ids="by {}".format)
def test_the_same_bits_whoever_is_late(collective):
    """Also with merges and checkpoints in between, at every step."""

    def body(comm, late):
        run = Descent(comm, "streaming", collective=collective, **PAPER)
        plain_ready = run.strategy.ready

        def ready(lo, hi):
            if comm.rank == late:
                time.sleep(1e-3)
            plain_ready(lo, hi)

        run.strategy.ready = ready
        for _ in range(11):
            run.steps(1)
            if late is not None:
                run.merged()
                run.saved()
        return run.params.copy()

    alone = run_ranks(RANKS, body, None)
    for late in (0, 2):
        for ours, theirs in zip(run_ranks(RANKS, body, late), alone, strict=True):
            assert (ours == theirs).all()


@pytest.mark.parametrize("done", range(2, 9))
def test_a_resumed_run_has_the_same_bits_wherever_it_was_stopped(done):
    """Steps 3 to 4 and 6 to 7 have a sum under way."""

    def body(comm):
        how = PAPER | {"optimizer": ("adamw", {})}
        whole = Descent(comm, "streaming", **how).steps(done)
        again = Descent(comm, "streaming", **how).resume(done, whole.saved())
        twice = Descent(comm, "streaming", **how).resume(done, again.saved())
        whole.steps(7)
        return [(run.steps(7).params == whole.params).all() for run in (again, twice)]

    assert run_ranks(2, body) == [[True, True]] * 2


@pytest.mark.parametrize("collective", COLLECTIVES, ids="by {}".format)
def test_all_that_is_sent_is_counted(collective):
    """Step by step at the use, and in all also where a merge waits for what is under way."""

    def body(comm):
        run = Descent(comm, "streaming", collective=collective, **PAPER)
        traffic = run.strategy.comm.traffic
        began = traffic.copy()
        for t in range(1, 13):
            before = traffic.copy()
            run.steps(1)
            sent = traffic - before
            assert (sent.messages, sent.bytes) == run.strategy.cost(t)
        costs = [run.strategy.cost(t) for t in range(1, 15)]  # what is used at 14 is under way now
        run.strategy.drain()
        sent = traffic - began
        return (sent.messages, sent.bytes) == tuple(map(sum, zip(*costs, strict=True)))

    assert all(run_ranks(RANKS, body))


# Fragments and options


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_fragments_are_runs_of_whole_tensors(lengths, data):
    count = data.draw(st.integers(1, len(lengths)))
    parts = cut(parameters(lengths), count)
    assert len(parts) == count and parts[0].start == 0 and parts[-1].stop == sum(lengths)
    assert all(a.stop == b.start for a, b in zip(parts, parts[1:], strict=False))
    ends = {tensor.hi for tensor in parameters(lengths)}
    assert all(part.start < part.stop and part.stop in ends for part in parts)


def test_fragments_are_as_even_as_tensors_allow():
    assert [part.stop for part in cut(parameters([3] * 8), 4)] == [6, 12, 18, 24]
    assert [part.stop for part in cut(parameters([10, 1, 1, 1]), 3)] == [10, 11, 13]
    assert [part.stop for part in cut(parameters([1, 1, 1, 10]), 2)] == [3, 13]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"period": 8, "fragments": 3}, "--fragments 3 does not divide --period 8"),
        (
            {"period": 8, "fragments": 4, "delay": 2},
            "--delay 2 must be less than --period 8 / --fragments 4 = 2",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(UserError) as error:
        StreamingOptions(**options)
    assert words in str(error.value)


def test_more_fragments_than_tensors_are_refused():
    with pytest.raises(UserError, match="--fragments 7: this model has 6 tensors"):
        cut(parameters(), len(LENGTHS) + 1)


@pytest.mark.parametrize("looks", [(), (4, 5), range(1, 19)])
def test_to_look_at_the_model_costs_nothing_and_hides_nothing(looks):
    """The messages of a sum that an evaluation waits for are counted all the same."""

    def body(comm):
        run = Run(comm, "streaming", {"period": 8, "fragments": 2, "delay": 3})
        before = run.strategy.comm.traffic.copy()
        for t in range(1, 19):
            run.steps(1)
            if t in looks:
                with merged(run.strategy):
                    pass
        run.strategy.drain()
        sent = run.strategy.comm.traffic - before
        assert (sent.messages, sent.bytes) == run.strategy.total_cost(19)

    run_ranks(3, body)
