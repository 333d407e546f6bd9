"""What each strategy makes of the state of another number of ranks, beyond what all have in common."""

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.errors import UserError
from mpidp.strategies import STRATEGIES
from mpidp.strategies.averaging import Averaging
from mpidp.takeover import BOUNDS
from tests.regrouping import Memory, goes_on, regrouped, resumed
from tests.runs import Run, relative

PAIRS = [(4, 3), (2, 5), (3, 1), (1, 3)]
UNEQUAL = {"split": "dirichlet"}  # ranks have samples of different numbers, some none


def both(before: int, after: int, steps: int, of, lost=(), hosts=None, **settings):
    """What `of(run)` gives on each rank before and after."""

    def body(comm):
        old, new, _ = regrouped(comm, before, after, steps, lost, **settings)
        return [of(run) if run else None for run in (old, new)]

    ranks = max(before, after)
    old, new = zip(*run_ranks(ranks, body, hosts=hosts and hosts[:ranks]), strict=True)
    return old[:before], new[:after]


@pytest.mark.parametrize(("before", "after"), PAIRS)
@pytest.mark.parametrize("name", ["averaging", "streaming", "none"])
def test_sample_counts_add_up(name, before, after):
    case = {"averaging": {"period": 8}, "streaming": {"period": 8}, "none": {}}[name]

    def of(run):
        return np.array([run.strategy.samples, run.strategy.total])

    old, new = both(before, after, 6, of, name=name, case=case, **UNEQUAL)
    assert np.sum(old, axis=0)[0] == pytest.approx(old[0][1])
    assert np.sum(new, axis=0)[0] == pytest.approx(old[0][1])
    assert all(each[1] == pytest.approx(old[0][1]) for each in new)


@pytest.mark.parametrize("lost", [0, 2, 3])
@pytest.mark.parametrize("name", ["averaging", "none"])
def test_of_a_lost_rank_its_local_steps_are_lost(name, lost):
    """The model is the mean of the others, by their samples; each of which keeps its own replica."""

    def of(run):
        return run.strategy.params.copy(), run.strategy.samples, run.merged()

    case = {"period": 8} if name == "averaging" else {}
    old, new = both(4, 3, 5, of, {lost}, name=name, case=case)
    left = [old[rank] for rank in range(4) if rank != lost]
    total = sum(samples for _, samples, _ in left)
    mean = sum(samples / total * x for x, samples, _ in left)
    for (x, samples, merged), (ours, count, _) in zip(new, left, strict=True):
        assert (x == ours).all() and samples == count
        assert relative(merged, mean) <= 1e-14


HOSTS = [0, 0, 1, 1, 1]
NODES = next(i for i, options in enumerate(Averaging.cases) if "node_period" in options)


@pytest.mark.parametrize(("before", "after"), [(4, 3), (3, 5), (5, 2), (4, 1)])
def test_ranks_that_average_inside_hosts_come_to_other_hosts(before, after):
    """5 steps: after two averages inside, and one step alone."""
    ranks = max(before, after)
    run_ranks(ranks, goes_on, "averaging", NODES, before, after, hosts=HOSTS[:ranks])
    old, new = both(
        before, after, 5, lambda run: run.strategy.total, name="averaging", case=NODES, hosts=HOSTS
    )
    assert new[0] == pytest.approx(old[0]) and len(set(new)) == 1


def test_a_lost_rank_s_host_keeps_what_it_had_averaged():
    """With rank 1 lost, rank 0 has all the weight of their host: what came of the averages inside is its as well."""

    def of(run):
        share = run.strategy.share() if run.strategy.total else None
        return share, run.strategy.params.copy(), run.merged()

    settings = {"name": "averaging", "case": NODES, "hosts": [0, 0, 1, 1]}
    old, _ = both(4, 4, 5, of, **settings)
    _, new = both(4, 3, 5, of, {1}, **settings)
    lost, total = old[1][0], 1.0
    weights = [share for share, _, _ in new]
    assert sum(weights) == pytest.approx(total)
    assert weights[0] > old[0][0] and weights[1] > 0 and lost > 0
    mean = sum(weight * x for weight, x, _ in new)
    assert relative(new[0][2], mean) <= 1e-13


@pytest.mark.parametrize("lost", [(), (1,)])
@pytest.mark.parametrize(("before", "after"), [(4, 3), (3, 2)])
def test_push_sum_s_weights_add_up_to_the_number_of_ranks(before, after, lost):
    case = {"graph": "random", "mixing": "push-sum"}

    def of(run):
        return run.strategy.mass.copy(), run.strategy.params.copy()

    old, new = both(before, after, 5, of, lost, name="gossip", case=case)
    assert sum(mass[-1] for mass, _ in new) == pytest.approx(after)
    left = sum(mass for rank, (mass, _) in enumerate(old) if rank not in lost)
    found = sum(mass for mass, _ in new)
    assert relative(found[:-1] / found[-1], left[:-1] / left[-1]) <= 1e-14
    assert all(relative(mass[:-1] / mass[-1], z) <= 1e-15 for mass, z in new)


@pytest.mark.parametrize(
    ("graph", "ranks", "said"),
    [("one-peer", 3, "there are 3: start mpirun -n 2 or 4"), ("torus", 3, "3 ranks cannot form")],
)
def test_a_graph_that_is_not_for_so_many_ranks_says_so(graph, ranks, said):
    with pytest.raises(UserError, match=said):
        both(4, ranks, 2, Run.merged, name="gossip", case={"graph": graph})


@pytest.mark.parametrize(("before", "after"), [(4, 3), (2, 5), (3, 2)])
@pytest.mark.parametrize("delay_compensation", [None, 0.5])
def test_an_asynchronous_server_counts_on(before, after, delay_compensation):
    """An update a push: W for each step, whatever W is now. All workers begin with the same parameters."""
    case = {"consistency": "asynchronous", "delay_compensation": delay_compensation}

    def of(run):
        rule, x = run.strategy.rule, run.strategy.params.copy()
        begins = rule and (rule.version, list(rule.seen))
        if run.comm.size != before:
            run.steps(4)
        return x, begins, run.strategy.summary()

    old, new = both(before, after, 3, of, name="server", case=case)
    version = 3 * (before - 1)
    assert new[-1][1] == (version, [version] * (after - 1))
    assert all((x == new[0][0]).all() for x, _, _ in new)
    assert sum(old[0][2]["staleness"].values()) == version
    assert sum(new[0][2]["staleness"].values()) == version + 4 * (after - 1)


def test_copies_of_windows_begin_anew():
    """What a rank works on is all that any rank has added, and its staleness counts from there."""

    def of(run):
        return run.strategy.params.copy(), run.strategy.seen.item(), run.merged()

    _, new = both(4, 3, 5, of, name="onesided", case=0)
    assert all((x == model).all() and seen == 20 for x, seen, model in new)


def test_dropped_gradients_and_staleness_are_not_forgotten():
    def of(run):
        return run.strategy.summary()

    old, new = both(5, 4, 6, of, name="server", case={"backup_workers": 1})
    assert (
        sum(new[0]["dropped_gradients"]) == sum(old[0]["dropped_gradients"])
        and len(new[0]["dropped_gradients"]) == 3
    )
    old, new = both(4, 3, 6, of, name="onesided", case=0)
    assert new[0]["staleness"] == old[0]["staleness"]


@pytest.mark.parametrize("bound", [0, 2])
def test_stale_servers_begin_together(bound):
    def of(run):
        return run.strategy.rule and (run.strategy.rule.version, run.strategy.rule.seen)

    case = {"consistency": "stale", "staleness": bound}
    assert both(4, 3, 6, of, name="server", case=case)[1][-1] == (6, [6, 6])


def test_moments_and_centre():
    """Moments of local optimizers: what they are on the mean, over all ranks; the centre as it was."""

    def of(run):
        return run.strategy.optimizer.state()["momentum"].copy(), run.strategy.centre.copy()

    settings = {"name": "elastic", "case": 0, "optimizer": ("sgd", {"momentum": 0.9}), "lr": 0.05}
    old, new = both(4, 3, 5, of, **settings)
    assert relative(*(np.mean([momentum for momentum, _ in each], axis=0) for each in (new, old))) <= 1e-14
    assert all((centre == old[0][1]).all() for _, centre in new)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
def test_block_momentum_that_there_is_not_on_one_rank(before, after):
    """1 - 1 / P is 0 there: the momentum is dropped, or begins at 0."""
    case = {"period": 3, "outer": "bmuf"}
    old, new = both(before, after, 7, lambda run: run.strategy.outer.velocity, name="averaging", case=case)
    assert [each[0] is None for each in (old, new)] == [before == 1, after == 1]
    assert new[0] is None or not new[0].any()


@pytest.mark.parametrize("name", STRATEGIES)
def test_owners_save_where_their_part_is(name):
    strategy = STRATEGIES[name]
    saved = run_ranks(4, lambda comm: Run(comm, name, {}).steps(1).strategy.saved())
    assert [rank for rank in range(4) if BOUNDS in saved[rank]] == list(
        strategy.owners(4, strategy.Options())
    )


def test_an_older_checkpoint_that_does_not_say_so():
    def body(comm):
        saved = Memory(comm, 2, Run(comm, "sharded", 0).steps(1).strategy.saved())
        for arrays in saved.arrays:
            del arrays[BOUNDS]
        resumed(comm, saved, 1, name="sharded", case=0)  # as many ranks
        saved.ranks = 1
        with pytest.raises(SharedError, match="start mpirun -n 1"):
            resumed(comm, saved, 1, name="sharded", case=0)

    run_ranks(2, body)
