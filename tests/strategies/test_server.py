"""What is peculiar to parameter servers."""

import random
import threading
import time

import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.strategies.server import Server, ServerOptions
from tests.runs import Run, relative
from tests.strategies.turns import WrittenOut

ADAM = {"optimizer": ("adamw", {}), "clip": 0.05, "lr": 0.01}


def test_servers_are_the_last_ranks_and_hold_their_part_of_the_optimizer():
    def body(comm):
        run = Run(comm, "server", 1, optimizer=("adamw", {})).steps(1)
        return run.strategy.worker, {k: len(v) for k, v in run.strategy.state().items()}, run.model.size

    found = run_ranks(5, body)
    size = found[0][2]
    assert [worker for worker, _, _ in found] == [0, 1, 2, None, None]
    assert all(state == {} for _, state, _ in found[:3])
    assert [set(state.values()) for _, state, _ in found[3:]] == [{size // 2}, {size - size // 2}]


@pytest.mark.parametrize(("ranks", "servers"), [(1, 1), (2, 2), (3, 5)])
def test_a_server_needs_a_worker(ranks, servers):
    with pytest.raises(UserError, match=f"needs a worker beside its {servers}"):
        Server.count_workers(ranks, ServerOptions(servers=servers))


@pytest.mark.parametrize(
    "rule", [{"consistency": "stale", "staleness": 0}, {"backup_workers": 0}], ids=["stale", "backup"]
)
@pytest.mark.parametrize("servers", [1, 2])
def test_what_waits_for_all_has_the_bits_of_synchronous(rule, servers):
    """With an optimizer that has state, and a norm that most steps are clipped at."""

    def body(comm):
        runs = [Run(comm, "server", {"servers": servers, **more}, **ADAM) for more in ({}, rule)]
        assert (runs[0].steps(20).merged() == runs[1].steps(20).merged()).all()

    run_ranks(5, body)


def paced(ranks, options, body):
    """(merged, summary, pushes of each worker) of ten steps, of which worker w makes the first by `body(w, run)`."""

    def rank(comm):
        run = Run(comm, "server", options)
        if run.strategy.worker is not None:
            body(run.strategy.worker, run)
        run.steps(10 - run.t)
        return run.merged(), run.strategy.summary(), run.strategy.pushes

    found = run_ranks(ranks, rank)
    merged, summary, _ = found[0]
    return merged, summary, [pushes for _, _, pushes in found[: ranks - options.get("servers", 1)]]


def at_random(worker, run):
    draw = random.Random(worker)
    while run.t < 10:
        time.sleep(draw.choice([0, 0, 0.001, 0.004]))
        run.steps(1)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("bound", [1, 3])
def test_staleness_stays_within_its_bound(bound, servers):
    options = {"consistency": "stale", "staleness": bound, "servers": servers}
    _, summary, pushes = paced(3 + servers, options, at_random)
    histogram = {int(tau): count for tau, count in summary["staleness"].items()}
    assert sum(histogram.values()) == sum(pushes) == 3 * 10
    assert 0 < max(histogram) <= bound


def test_a_worker_runs_ahead_as_far_as_the_bound_and_no_farther():
    bound, ahead, steps = 3, threading.Event(), []

    def body(worker, run):
        if worker == 0:
            run.steps(bound)
            ahead.set()
            run.steps(1)
            steps.append("beyond")
        else:
            assert ahead.wait(5)
            time.sleep(0.1)
            steps.append("slow")
            run.steps(1)

    _, summary, _ = paced(3, {"consistency": "stale", "staleness": bound}, body)
    assert steps == ["slow", "beyond"] and summary["staleness"][str(bound)] >= 1


@pytest.mark.parametrize(("servers", "late", "dropped"), [(1, 1, 2), (1, 10, 1), (2, 1, 2), (2, 10, 1)])
def test_a_late_gradient_is_dropped_and_its_worker_goes_on_with_the_others(servers, late, dropped):
    """Worker 2 makes its first step when the others have made `late`, the next when they are done: theirs count."""
    turn = threading.Barrier(3)

    def body(worker, run):
        for mine in (worker < 2, worker == 2, worker < 2):
            if mine:
                run.steps(1 if worker == 2 else late if run.t == 0 else 10 - late)
            turn.wait(5)

    merged, summary, pushes = paced(3 + servers, {"backup_workers": 1, "servers": servers}, body)
    assert summary == {"dropped_gradients": [0, 0, dropped]} and pushes == [10, 10, dropped]
    run = WrittenOut(3)
    for t in range(1, 11):
        run.x = run.x - 0.2 * (run.gradient(0, t, run.x) + run.gradient(1, t, run.x)) / 2
    assert relative(merged, run.x) <= 1e-12


def test_backup_workers_end_cleanly_whoever_is_late():
    for servers in (1, 2):
        _, summary, pushes = paced(4 + servers, {"backup_workers": 2, "servers": servers}, at_random)
        assert sum(summary["dropped_gradients"]) == sum(pushes) - 2 * 10


REFUSED = {
    "staleness of another": ({"staleness": 2}, "--staleness is used by --consistency stale, this run has"),
    "staleness of none": ({"consistency": "asynchronous", "staleness": 0}, "--staleness is used by"),
    "backup": (
        {"consistency": "stale", "backup_workers": 1},
        "--backup-workers is used by --consistency synchronous",
    ),
    "scaling": ({"scale_by_staleness": True}, "--scale-by-staleness is used by --consistency asynchronous"),
    "compensation": ({"consistency": "stale", "delay_compensation": 0.1}, "--delay-compensation is used by"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_options_that_mean_nothing_are_refused(refused):
    options, words = REFUSED[refused]
    with pytest.raises(UserError, match=words):
        ServerOptions(**options)


def test_some_gradient_must_be_waited_for():
    Server.count_workers(4, ServerOptions(backup_workers=2))
    with pytest.raises(
        UserError, match=r"--backup-workers 3 would leave out .* 3 worker.*mpirun -n 5 .*at most 2"
    ):
        Server.count_workers(4, ServerOptions(backup_workers=3))
