"""Ranks as threads: the interface, and failures that end all ranks."""

import time

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError, require_same, together
from mpidp.errors import RunError, UserError
from tests.routes import check_hosts, check_shared_memory, check_verbs, check_waiting_for_any, check_window


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_verbs(ranks):
    run_ranks(ranks, check_verbs)


@pytest.mark.parametrize("ranks", [2, 4])
def test_waiting_for_any(ranks):
    run_ranks(ranks, check_waiting_for_any)


@pytest.mark.parametrize("ranks", [1, 3])
def test_window(ranks):
    run_ranks(ranks, check_window)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shared_memory(ranks):
    run_ranks(ranks, check_shared_memory)


@pytest.mark.parametrize("hosts", [[0], [0, 0], [0, 1], [0, 1, 0, 1], [0, 0, 1], [0, 1, 2, 1, 1]])
def test_hosts(hosts):
    run_ranks(len(hosts), check_hosts, hosts, hosts=hosts)


def test_ranks_of_several_hosts_share_no_memory():
    with pytest.raises(ValueError, match="share no memory"):
        run_ranks(2, lambda comm: comm.Allocate_shared(3, np.float32), hosts=[0, 1])


def test_one_rank_s_exception_ends_all():
    def body(comm):
        if comm.rank == 1:
            raise ZeroDivisionError("here")
        comm.Recv(np.empty(1), 1)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="here"):
        run_ranks(3, body)
    assert time.monotonic() - began < 5


def test_a_wait_gives_up_and_names_the_peer():
    def body(comm):
        comm.timeout = 0.2
        if comm.rank == 0:
            comm.Recv(np.empty(4, np.float32), 1)

    with pytest.raises(RunError, match=r"rank 0 waited 0\.2 s for a message from rank 1 of 16 bytes"):
        run_ranks(2, body)


def test_a_wait_for_any_names_all():
    def body(comm):
        comm.timeout = 0.1
        if comm.rank == 0:
            comm.Waitany([comm.Iprobe(1), comm.Iprobe(2)])

    with pytest.raises(
        RunError, match=r"rank 0 waited 0\.1 s for the first of: a message from rank 1, .* rank 2"
    ):
        run_ranks(3, body)


def test_a_message_of_another_length_is_an_error():
    def body(comm):
        if comm.rank == 0:
            comm.Recv(np.empty(4, np.float32), 1)
        else:
            comm.Send(np.empty(3, np.float32), 0)

    with pytest.raises(RunError, match="rank 0 expected 16 bytes from rank 1 but got 12"):
        run_ranks(2, body)


def test_waiting_is_counted():
    def body(comm):
        if comm.rank == 1:
            time.sleep(0.2)
        comm.Barrier()
        return comm.traffic.seconds_waiting

    waited = run_ranks(2, body)
    assert waited[0] > 0.15 and waited[1] < 0.1


def test_a_buffer_must_be_contiguous():
    with pytest.raises(ValueError, match="contiguous"):
        run_ranks(1, lambda comm: comm.Isend(np.zeros((4, 4))[:, 1], 0))


def test_an_error_of_one_rank_is_shared():
    def body(comm):
        def work():
            if comm.rank == 2:
                raise UserError("no such file")
            return comm.rank

        with pytest.raises(SharedError, match=r"^rank 2: no such file$"):
            together(comm, work)

    run_ranks(3, body)


def test_an_error_of_all_ranks_is_told_once():
    def body(comm):
        def work():
            raise UserError("no such file")

        with pytest.raises(SharedError, match=r"^no such file$"):
            together(comm, work)
        assert together(comm, lambda: comm.rank) == comm.rank

    run_ranks(3, body)


def test_ranks_with_different_facts_are_named():
    def body(comm):
        with pytest.raises(SharedError, match=r"rank 1 has --lr = 2, but rank 0 has 1"):
            require_same(comm, {"--lr": 1 + (comm.rank == 1), "--seed": 0})
        require_same(comm, {"--seed": 0})

    run_ranks(3, body)
