"""Gossip against its papers' updates written out with matrices, and the identities that tie it to other strategies."""

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.nn.layer import Parameter, constant
from mpidp.optim import OPTIMIZERS
from mpidp.strategies import Setup, Step
from mpidp.strategies.averaging import Averaging
from mpidp.strategies.gossip import Gossip, GossipOptions
from mpidp.strategies.graphs import GRAPHS, levels, spectral_gap, weights
from tests import conformance
from tests.runs import Run, relative

SIZE, LR, MOMENTUM = 23, 0.3, 0.5
CENTRES = np.random.default_rng(5).normal(size=(8, SIZE))  # rank r's loss is ½ |x - CENTRES[r]|²


class Gossiping:
    """A strategy on this rank with a quadratic loss, replicas that differ from the start, and uneven shards."""

    def __init__(self, comm, lr=LR, dtype=np.float64, **options):
        sgd, parameter = OPTIMIZERS["sgd"], Parameter("x", (SIZE,), constant(0.0))
        parameter.lo, parameter.hi = 0, SIZE
        setup = Setup(comm.Dup(), SIZE, np.dtype(dtype), np,
                      lambda lo, hi, like: sgd(sgd.Options(momentum=MOMENTUM), [parameter], lo, hi, like),
                      COLLECTIVES["ring"], None, seed=11)  # fmt: skip
        self.strategy, self.comm, self.lr, self.t = Gossip(setup, GossipOptions(**options)), comm, lr, 0
        self.strategy.allocate()
        self.strategy.start()
        self.strategy.x[...] = self.strategy.params[...] = initial(comm.size)[comm.rank]

    def step(self):
        self.t += 1
        strategy, counts = self.strategy, samples(self.comm.size, self.t)
        step = Step(self.t, counts[self.comm.rank], sum(counts), self.lr)
        residual = strategy.params - CENTRES[self.comm.rank]
        np.multiply(residual, step.samples * strategy.scale(step), out=strategy.grads)
        strategy.ready(0, SIZE)
        strategy.advance()
        strategy.step(step)
        return strategy.params.copy()

    def steps(self, count):
        return [self.step() for _ in range(count)]


def initial(ranks):
    return np.random.default_rng(6).normal(size=(ranks, SIZE))


def samples(ranks, t):
    """Of every rank in step t; now and then a rank has none."""
    return [(5 * rank + 3 * t) % 4 + (rank == 0) for rank in range(ranks)]


def written_out(ranks, steps, graph, weighted, overlap, lr=LR):
    """D-PSGD and SGP with momentum for all replicas at once: a row each. Who has no samples keeps its momentum."""
    x, w, momentum = initial(ranks), np.ones((ranks, 1)), np.zeros((ranks, SIZE))
    for t in range(1, steps + 1):
        counts = np.array(samples(ranks, t)).reshape(-1, 1)
        g = counts * ranks / counts.sum() * (x / w - CENTRES[:ranks])
        momentum = np.where(counts, MOMENTUM * momentum + g, momentum)
        step = np.where(counts, lr * momentum, 0)
        mix = weights(GRAPHS[graph], ranks, t, seed=11)
        x = mix @ x - step if overlap else mix @ (x - step)
        w = mix @ w
    return x / w if weighted else x


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(
    ("graph", "mixing", "ranks"),
    [("ring", "average", 5), ("torus", "average", 6), ("exponential", "average", 7), ("one-peer", "average", 4),
     ("exponential", "push-sum", 3), ("random", "push-sum", 5)],
)  # fmt: skip
def test_as_the_papers_have_it(graph, mixing, ranks, overlap):
    def body(comm):
        return Gossiping(comm, graph=graph, mixing=mixing, overlap=overlap).steps(9)[-1]

    expected = written_out(ranks, 9, graph, mixing == "push-sum", overlap)
    np.testing.assert_allclose(run_ranks(ranks, body), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "contract"),
    [
        ({}, conformance.resumes_with_the_same_bits),
        ({}, conformance.sends_what_the_formula_says),
        ({"graph": "torus"}, conformance.sends_what_the_formula_says),
        ({"graph": "one-peer"}, conformance.resumes_with_the_same_bits),
        ({"graph": "one-peer"}, conformance.sends_what_the_formula_says),
    ],
)
def test_the_contracts_on_graphs_that_are_not_for_any_number_of_ranks(contract, options, monkeypatch):
    monkeypatch.setattr(Gossip, "cases", (options,))
    run_ranks(4, contract, "gossip", 0)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("mixing", ["average", "push-sum"])
def test_one_peer_reaches_the_exact_mean_in_lg_p_rounds(ranks, mixing):
    rounds = levels(ranks)
    found = np.array(
        run_ranks(ranks, lambda comm: Gossiping(comm, 0.0, graph="one-peer", mixing=mixing).steps(rounds))
    )
    mean = initial(ranks).mean(axis=0)
    np.testing.assert_allclose(found[:, -1], np.tile(mean, (ranks, 1)), rtol=0, atol=1e-15)
    if rounds > 1:
        assert abs(found[:, -2] - mean).max() > 0.1


@pytest.mark.parametrize(("ranks", "graph"), [(2, "ring"), (3, "ring"), (2, "exponential"), (2, "one-peer")])
def test_complete_mixing_is_averaging_with_period_1(ranks, graph, monkeypatch):
    monkeypatch.setattr(Gossip, "cases", ({"graph": graph, "overlap": False},))
    period_1 = Averaging.cases.index({"period": 1})
    gossip = run_ranks(ranks, lambda comm: Run(comm, "gossip", 0).steps(30).merged())
    averaging = run_ranks(ranks, lambda comm: Run(comm, "averaging", period_1).steps(30).merged())
    assert relative(gossip[0], averaging[0]) < 1e-13


@pytest.mark.parametrize(("graph", "ranks"), [("ring", 5), ("torus", 4), ("exponential", 6)])
def test_push_sum_on_a_balanced_graph_is_d_psgd(graph, ranks):
    """Bit for bit: the weights stay 1."""

    def body(comm, mixing):
        return Gossiping(comm, graph=graph, mixing=mixing).steps(6)

    assert np.array_equal(run_ranks(ranks, body, "average"), run_ranks(ranks, body, "push-sum"))


def test_push_sum_conserves_mass():
    """Whoever hears more than others has a weight above 1; of x and of w nothing is lost, and z comes to the mean."""

    def body(comm):
        run = Gossiping(comm, 0.0, graph="random", mixing="push-sum")
        masses, merged = [], np.empty(SIZE)
        for t in range(60):
            run.step()
            masses.append(run.strategy.mass.copy())
            if t == 3:  # while replicas and weights still differ much
                run.strategy.merge(merged)
        return masses, merged, run.strategy.params.copy(), run.strategy.summary()["push_sum_weights"]

    ranks = 6
    found = run_ranks(ranks, body)
    masses = np.array([masses for masses, *_ in found])  # rank, step, element
    start = initial(ranks)
    np.testing.assert_allclose(masses.sum(axis=0)[:, -1], ranks, rtol=1e-14)
    np.testing.assert_allclose(masses.sum(axis=0)[:, :-1], np.tile(start.sum(axis=0), (60, 1)), atol=1e-13)
    assert masses[:, :, -1].min() < 0.5 and masses[:, :, -1].max() > 1.5
    for _, merged, z, told in found:
        np.testing.assert_allclose(merged, start.mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(z, start.mean(axis=0), atol=1e-6)
        assert sum(told) == pytest.approx(ranks)


@pytest.mark.parametrize(
    ("graph", "ranks"), [("ring", 6), ("torus", 8), ("exponential", 5), ("exponential", 8)]
)
def test_the_distance_shrinks_by_the_spectral_gap(graph, ranks):
    found = np.array(run_ranks(ranks, lambda comm: Gossiping(comm, 0.0, graph=graph).steps(12)))
    replicas = np.concatenate([initial(ranks)[:, None], found], axis=1)
    distance = np.linalg.norm(replicas - replicas.mean(axis=0), axis=(0, 2))
    shrunk, rho = distance[1:] / distance[:-1], 1 - spectral_gap(GRAPHS[graph], ranks)
    assert (shrunk <= rho * (1 + 1e-9)).all()
    assert shrunk[-1] > 0.7 * rho  # and the slowest part is what remains


def test_equal_replicas_stay_equal_in_every_bit():
    """Weights of a third do not add up to 1 in binary; over many rounds that would pull all of x one way."""

    def body(comm):
        run = Gossiping(comm, 0.0, np.float32, graph="ring")
        run.strategy.params[...] = start = initial(1)[0].astype(np.float32)
        return (run.steps(50)[-1] == start).all()

    assert all(run_ranks(5, body))


def test_parameters_travel_while_backward_computes():
    def body(comm, overlap):
        strategy = Gossiping(comm, graph="ring", overlap=overlap).strategy
        comm.Barrier()
        before = strategy.comm.traffic.messages
        strategy.ready(SIZE - 1, SIZE)  # the first slice of the gradient is done
        return strategy.comm.traffic.messages - before

    assert run_ranks(3, body, True) == [2] * 3
    assert run_ranks(3, body, False) == [0] * 3


def test_a_graph_that_is_not_balanced_needs_push_sum():
    with pytest.raises(UserError, match=r"--graph random.*--mixing push-sum"):
        GossipOptions(graph="random")
