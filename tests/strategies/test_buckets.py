"""Buckets: the same bits as one after another, whoever is slow, empty or interrupted; and what backward hides."""

import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.collectives import COLLECTIVES
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import run_ranks
from mpidp.compression import Place, Sum
from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.strategies.buckets import Buckets, cut
from tests.runs import Run

N = 37
LENGTHS = [1, 2, 5, 36, 37, 38, 10_000]
OVERLAPPING = [name for name, route in COLLECTIVES.items() if route.lanes]


def vector(rank: int, n: int = N) -> np.ndarray:
    return np.random.default_rng([rank, n]).normal(size=n)


def buckets(comm, length: int, route: str = "ring", n: int = N) -> tuple[Buckets, np.ndarray]:
    route = COLLECTIVES[route]
    held = route.allocate(comm, n, np.dtype(np.float64))
    held[...] = vector(comm.rank, n)
    summing = Sum(Place(comm, route, n, np.dtype(np.float64), np))
    return Buckets(comm, summing, n, length), held


def one_after_another(comm, length: int, route: str) -> np.ndarray:
    """What the route's all-reduce makes of every slice, each waited for."""
    route = COLLECTIVES[route]
    held = route.allocate(comm, N, np.dtype(np.float64))
    held[...] = vector(comm.rank)
    for part in cut(N, length):
        route.allreduce(comm, held[part], np.empty(route.scratch(N, comm.size)))
    return held.copy()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 220))
def test_slices_go_from_the_tail_to_the_head(n, length):
    slices = cut(n, length)
    assert [i for part in reversed(slices) for i in range(n)[part]] == list(range(n))
    assert all(part.stop - part.start == length for part in slices[:-1])
    assert len(slices) == -(-n // length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("route", OVERLAPPING)
def test_the_same_bits_as_one_after_another(route, ranks, length):
    """Ranks announce different slices at different times; one announces all at once, as a rank without samples does."""

    def body(comm):
        expected = one_after_another(comm.Dup(), length, route)
        own = comm.Dup()
        summing, held = buckets(own, length, route)
        rng = np.random.default_rng(comm.rank)
        for _ in range(3):  # step after step, with no barrier between
            held[...] = vector(comm.rank)
            before = own.traffic.copy()
            bounds = [0] if comm.rank == 1 else sorted({0, *rng.integers(0, N, 6).tolist()}, reverse=True)
            for lo in bounds:
                if comm.rank == 2:
                    time.sleep(1e-3)
                summing.ready(held, lo)
                summing.advance(held)
            summing.finish(held)
            sent = own.traffic - before
            assert (held == expected).all()
            costs = [
                COLLECTIVES[route].cost(
                    part.stop - part.start, own.hosts(), own.rank, plain_bytes(held.dtype)
                )
                for part in cut(N, length)
            ]
            assert (sent.messages, sent.bytes) == tuple(map(sum, zip(*costs, strict=True)))
            own.Barrier()  # routes through shared memory: nobody writes the next vector while another compares
        return held.copy()

    results = run_ranks(ranks, body)
    assert len({result.tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0], sum(vector(rank) for rank in range(ranks)), rtol=1e-12)


def test_a_bucket_is_summed_before_the_rest_is_ready():
    def body(comm):
        summing, held = buckets(comm, 10)
        summing.ready(held, 15)  # completes [27, 37) and [17, 27)
        deadline = time.monotonic() + 20
        while summing.under_way and time.monotonic() < deadline:
            summing.advance(held)
            time.sleep(1e-4)
        early = held.copy()
        comm.Barrier()
        summing.finish(held)
        return early, held

    whole = vector(0) + vector(1)
    for rank, (early, late) in enumerate(run_ranks(2, body)):
        assert (early[17:] == whole[17:]).all()
        assert (early[:17] == vector(rank)[:17]).all()
        assert (late == whole).all()


@pytest.mark.parametrize(("route", "length"), [("ring", 0), ("shared", 5), ("shared", 0), ("ring", N)])
def test_one_bucket_waits_for_finish(route, length):
    def body(comm):
        summing, held = buckets(comm, length, route)
        assert len(summing.slices) == 1 and not summing.early
        summing.finish(held)
        comm.Barrier()
        return held.copy()

    for result in run_ranks(2, body):
        assert (result == vector(0) + vector(1)).all()


def test_no_more_are_under_way_than_there_are_lanes():
    def body(comm):
        summing, held = buckets(comm, 1)
        lanes = COLLECTIVES["ring"].lanes
        assert summing.lanes == lanes > 1
        if comm.rank == 0:
            summing.ready(held, 0)
            started = summing.started, len(summing.under_way)
            comm.Barrier()
            assert started == (lanes, lanes)
        else:
            comm.Barrier()  # nothing is announced before rank 0 has looked
        summing.finish(held)
        assert (summing.started, len(summing.under_way)) == (0, 0)

    run_ranks(2, body)


class Slow(Run):
    """A run whose backward takes its time on one rank, and that may keep from its strategy what is ready."""

    def __init__(self, comm, slow: int | None, silent: bool, **settings):
        super().__init__(comm, "allreduce", 1, **settings)
        if silent:
            self.strategy.ready = lambda lo, hi: None
        if comm.rank == slow:
            for layer in self.model.stack:
                layer.backward = partial(self.late, type(layer).backward, layer)
            self.model._unplanned = [dict(vars(part)) for part in [*self.model.layers, self.model.loss]]

    @staticmethod
    def late(backward, layer, dy):
        time.sleep(2e-3)
        return backward(layer, dy)


@pytest.mark.parametrize("collective", OVERLAPPING)
@pytest.mark.parametrize("split", ["contiguous", "dirichlet"])
def test_training_has_the_same_bits_overlapped_and_after_backward(split, collective):
    """Dirichlet: some ranks have no samples in some steps."""

    def body(comm):
        how = {"split": split, "collective": collective, "optimizer": ("adamw", {}), "lr": 0.01}
        blocking = Slow(comm, None, True, **how).steps(6).merged()
        return [(Slow(comm, slow, False, **how).steps(6).merged() == blocking).all() for slow in (None, 0, 2)]

    assert run_ranks(3, body) == [[True] * 3] * 3


def test_messages_leave_during_backward():
    def body(comm):
        run = Run(comm, "allreduce", 1)
        at_step, step = [], run.strategy.step
        run.strategy.step = lambda s: (at_step.append(run.strategy.comm.traffic.messages), step(s))
        start = run.strategy.comm.traffic.messages
        run.steps(1)
        sent = run.strategy.comm.traffic.messages - start
        assert run.strategy.cost(1)[0] == sent
        return at_step[0] - start, sent

    for early, sent in run_ranks(2, body):
        assert 0 < early <= sent


def test_a_rank_that_fails_in_backward_ends_the_others():
    def body(comm):
        run = Run(comm, "allreduce", 1).steps(2)
        if comm.rank == 1:
            run.model.stack[0].backward = None  # the last to be called: buckets are under way
        run.steps(1)

    began = time.monotonic()
    with pytest.raises(TypeError, match="not callable"):
        run_ranks(3, body, timeout=30)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_strategies_are_called_between_layers(cuts):
    gpt = MODELS["gpt"]
    options = gpt.Options(layers=2, heads=2, width=8, context=8)
    model = gpt.build(options, Schema("tokens", (8,), 16), np.float64)
    model.bind(np.zeros(model.size), np.zeros(model.size))
    model.initialise(0)
    tokens = np.random.default_rng(0).integers(0, 16, (4, 9)).astype(np.int32)
    told: list[tuple[int, int] | None] = []
    batch = tokens[:, :-1], tokens[:, 1:], 0.25
    loss = model.gradients(
        *batch,
        lambda lo, hi: told.append((lo, hi)),
        between=lambda: told.append(None),
        cuts=cuts,
    )
    for lo, hi in model.slices[1:3]:  # of each block
        first, last = (
            next(i for i, what in enumerate(told) if what and what[end] == (lo, hi)[end]) for end in (1, 0)
        )
        inside = told[first : last + 1]
        assert len([what for what in inside if what]) >= 5 and inside.count(None) >= 5
    slices = [what for what in told if what]
    assert [hi for _, hi in slices] == [model.size, *(lo for lo, _ in slices[:-1])] and slices[-1][0] == 0
    grads = model.grads.copy()
    told.clear()
    assert model.gradients(*batch, cuts=cuts) == loss and (model.grads == grads).all()
    assert told == []  # it is asked for anew each time
