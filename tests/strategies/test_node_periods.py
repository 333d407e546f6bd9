"""Averages inside a host between those over all ranks: hierarchical local SGD."""

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from tests.runs import relative
from tests.strategies.quadratic import LR, Descent, gradient, mean_of, origin, samples, trained

HOSTS = [0, 0, 1, 1]
SPREAD = [0, 0, 1, 0]


def averaged(**settings):
    return trained(4, "averaging", **settings)


def written_out_by_hosts(steps, period, node_period, hosts):
    """Hierarchical local SGD, the means weighted by samples, of a host's ranks and then of the hosts."""
    ranks, replicas, x0 = len(hosts), [origin()] * len(hosts), origin()
    worked, inside = np.zeros(ranks), np.zeros(ranks)

    def node(r):
        return [q for q in range(ranks) if hosts[q] == hosts[r]]

    def node_mean(r):
        members = node(r)
        if inside[members].sum() == 0:
            return replicas[r]
        return mean_of([replicas[q] for q in members], inside[members])

    def mean():
        firsts = [node(r)[0] for r in range(ranks) if node(r)[0] == r]
        return mean_of([node_mean(r) for r in firsts], [worked[node(r)].sum() for r in firsts])

    for t in range(1, steps + 1):
        for r in range(ranks):
            if samples(r, t):
                replicas[r] = replicas[r] - LR * gradient(r, replicas[r])
        counts = [samples(r, t) for r in range(ranks)]
        worked, inside = worked + counts, inside + counts
        if t % period == 0:
            x0 = mean()
            replicas, worked, inside = [x0] * ranks, np.zeros(ranks), np.zeros(ranks)
        elif t % node_period == 0:
            replicas = [node_mean(r) for r in range(ranks)]
            inside = np.zeros(ranks)
    return x0 if worked.sum() == 0 else mean()


@pytest.mark.parametrize("steps", [12, 14, 15])
@pytest.mark.parametrize("hosts", [HOSTS, SPREAD], ids=str)
def test_hierarchical_local_sgd(hosts, steps):
    found = averaged(steps=steps, hosts=hosts, period=6, node_period=2)
    assert relative(found, written_out_by_hosts(steps, 6, 2, hosts)) < 1e-13


@pytest.mark.parametrize("collective", COLLECTIVES, ids="by {}".format)
def test_on_one_host_the_host_s_period_is_the_only_one(collective):
    found = averaged(steps=15, collective=collective, period=6, node_period=2)
    assert relative(found, averaged(steps=15, period=2)) < 1e-13


def test_a_host_s_period_as_long_as_the_other_changes_nothing():
    assert (averaged(steps=14, hosts=HOSTS, period=4, node_period=4) == averaged(steps=14, period=4)).all()


@pytest.mark.parametrize("collective", ["ring", "hierarchical"])
@pytest.mark.parametrize("hosts", [HOSTS, SPREAD], ids=str)
def test_a_host_that_averages_every_step_works_by_all_reduce(hosts, collective):
    """And on its own, if the hosts average but once in a long time."""

    def body(comm):
        members = [rank for rank in range(comm.size) if hosts[rank] == hosts[comm.rank]]
        mine = {"rank": comm.rank, "collective": collective}
        averaging = Descent(comm, "averaging", period=10**6, node_period=1, **mine).steps(13)
        return relative(
            averaging.params, Descent(comm.local(), "allreduce", ranks=members, **mine).steps(13).params
        )

    assert max(run_ranks(4, body, hosts=hosts)) < 1e-13


@pytest.mark.parametrize("hosts", [[0] * 4, HOSTS, SPREAD], ids=str)
@pytest.mark.parametrize("collective", ["ring", "hierarchical"])
def test_what_averages_inside_a_host_send(hosts, collective):
    def body(comm):
        run = Descent(comm, "averaging", collective=collective, period=6, node_period=2, sync_steps=1)
        traffic, found = run.strategy.comm.traffic, []
        for t in range(1, 15):
            before = traffic.copy()
            run.steps(1)
            sent = traffic - before
            assert (sent.messages, sent.bytes) == run.strategy.cost(t)
            found.append(sent.messages)
        return found

    for rank, messages in enumerate(run_ranks(4, body, hosts=hosts)):
        others = hosts.count(hosts[rank]) - 1
        inside = (2 * others if collective == "ring" else 0) + others
        assert messages[2] == inside and messages[1] == messages[3] == 0


@pytest.mark.parametrize("done", [1, 3, 5, 6])
def test_a_resumed_run_has_the_same_bits_wherever_it_was_stopped(done):
    def body(comm):
        how = {"period": 6, "node_period": 2, "outer": "slowmo", "optimizer": ("adamw", {})}
        whole = Descent(comm, "averaging", **how).steps(done)
        again = Descent(comm, "averaging", **how).resume(done, whole.saved())
        return (again.steps(8).params == whole.steps(8).params).all()

    assert all(run_ranks(3, body, hosts=[0, 0, 1]))
