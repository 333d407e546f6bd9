"""What is peculiar to parameter servers."""

import pytest

from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.strategies.server import Server, ServerOptions
from tests.conformance import Run


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
