"""The modelled networks: ranks that keep time take what the α-β formulas say, to the rounding of a sum."""

import numpy as np
import pytest

from benchmarks.cases import configured
from benchmarks.model_check import modelled_sum
from benchmarks.networks import NETWORKS, Network
from benchmarks.replay import extended, replay
from benchmarks.simulated import POLL, run_simulated
from mpidp.errors import RunError, UserError

NET = Network("toy", "toy", "toy", alpha=0.5, rate=4.0, source="")  # a byte takes 1/4 s


def alone(size, hosts=None, network=NET):
    """A decorator: run the body on simulated ranks."""
    return lambda body: run_simulated(size, network, body, hosts, timeout=20)


def test_a_message_takes_alpha_and_its_bytes():
    @alone(2)
    def times(comm):
        buffer = np.zeros(8, np.uint8)
        if comm.rank == 0:
            comm.compute(1.0)
            comm.Send(buffer, 1)  # has left at 1 + 8 / 4
        else:
            comm.Recv(buffer, 0)
        return comm.now()

    assert times == [3.0, 3.5]


def test_messages_share_the_links_of_sender_and_receiver():
    """Two into one: the second waits for the receiver's link; two out of one: for the sender's; both ways: for none."""

    @alone(3)
    def into(comm):
        buffer = np.zeros(8, np.uint8)
        if comm.rank:
            comm.Send(buffer, 0)
        else:
            comm.Wait(comm.Irecv(buffer, 1), comm.Irecv(buffer.copy(), 2))
        return comm.now()

    @alone(3)
    def out(comm):
        buffer = np.zeros(8, np.uint8)
        if comm.rank:
            comm.Recv(buffer, 0)
        else:
            comm.Wait(comm.Isend(buffer, 1), comm.Isend(buffer, 2))
        return comm.now()

    @alone(2)
    def both(comm):
        buffers = np.zeros(8, np.uint8), np.zeros(8, np.uint8)
        comm.Wait(comm.Isend(buffers[0], 1 - comm.rank), comm.Irecv(buffers[1], 1 - comm.rank))
        return comm.now()

    assert into == [4.5, 2.0, 2.0]
    assert out == [4.0, 2.5, 4.5]
    assert both == [2.5, 2.5]


def test_ranks_of_one_host_share_its_link_and_exchange_for_nothing():
    @alone(4, hosts=(0, 0, 1, 1))
    def times(comm):
        buffer = np.zeros(8, np.uint8)
        if comm.rank < 2:
            comm.Send(buffer, comm.rank + 2)
        else:
            comm.Recv(buffer, comm.rank - 2)
            if comm.rank == 2:
                comm.Send(buffer, 3, tag=1)
            else:
                comm.Recv(buffer, 2, tag=1)
        return comm.now()

    assert times == [2.0, 4.0, 2.5, 4.5]


def test_whoever_is_first_in_modelled_time_is_served_first():
    """Rank 2 computes longer and sends later, however the threads run; a test that finds nothing costs a little."""

    @alone(3)
    def order(comm):
        buffers = {rank: np.zeros(4, np.uint8) for rank in (1, 2)}
        if comm.rank:
            comm.compute({1: 5.0, 2: 1.0}[comm.rank])
            comm.Send(buffers[comm.rank], 0)
            return []
        pending = {rank: comm.Irecv(buffer, rank) for rank, buffer in buffers.items()}
        came = []
        while pending:
            comm.compute(0.01)
            for rank in list(pending):
                if comm.Test(pending[rank]):
                    came.append((rank, comm.now()))
                    del pending[rank]
        return came

    (first, second) = order[0]
    assert (first[0], second[0]) == (2, 1)
    assert first[1] == pytest.approx(1 + 1 + 0.5, abs=0.02 + 1000 * POLL)
    assert second[1] == pytest.approx(5 + 1 + 0.5, abs=0.02 + 1000 * POLL)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_the_ring_takes_what_its_formula_says(ranks):
    """2 (P - 1) α + 2 (P - 1) / P n β (Patarasuk & Yuan 2009), where P divides n."""
    network, n = NETWORKS["1gbe"], 4 * 60_000
    expected = 2 * (ranks - 1) * network.alpha + 2 * (ranks - 1) / ranks * n * network.beta
    assert modelled_sum(network, range(ranks), "ring", n) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_halving_and_doubling_takes_what_its_formula_says(ranks):
    """2 lg P α + 2 (P - 1) / P n β (Thakur, Rabenseifner and Gropp 2005)."""
    network, n = NETWORKS["wan"], 4 * 64_000
    expected = 2 * (ranks.bit_length() - 1) * network.alpha + 2 * (ranks - 1) / ranks * n * network.beta
    assert modelled_sum(network, range(ranks), "halving-doubling", n) == pytest.approx(expected, rel=1e-9)


def test_hierarchical_takes_what_its_formula_says():
    """2 hosts with 2 ranks each: each host's link carries 2 n (H - 1) / H = n bytes each way, in chunks of n / 4."""
    network, n = NETWORKS["1gbe"], 1 << 20
    expected = n * network.beta
    assert modelled_sum(network, (0, 0, 1, 1), "hierarchical", n) == pytest.approx(expected, rel=0.03)


def test_ranks_that_wait_for_nothing_and_ranks_that_fail_are_told():
    def silent(comm):
        if comm.rank == 0:
            comm.Recv(np.zeros(1), 1)

    def failing(comm):
        if comm.rank == 1:
            raise UserError("no more")
        comm.Recv(np.zeros(1), 1)

    with pytest.raises(RunError, match="ranks 0 wait for messages that nobody sends"):
        run_simulated(2, NET, silent, timeout=20)
    with pytest.raises(UserError, match="no more"):
        run_simulated(2, NET, failing, timeout=20)


MLP = [
    "--model",
    "mlp",
    "--data",
    "synthetic-classes",
    "--batch-size",
    "12",
    "--steps",
    "4",
    "--optimizer",
    "sgd",
]


def replayed(*options, ranks=3, **settings):
    config = configured([*MLP, *options])
    route = "ring" if config.run.collective else None
    settings = {"gradient_seconds": 0.25, "steps": 4, "cpu": False, "network": NETWORKS["wan"]} | settings
    return replay(config, route, ranks, **settings)


def size_of(*options):
    """Parameters of the model, by what a rank sends to its server in a step."""
    return replayed("--sync", "server", ranks=2, steps=1).traffic[0][1] // 4


def test_a_replayed_run_takes_compute_and_messages():
    """Sums after backward: the formula of the ring and the gradient's time, to the messages' lengths."""
    network, n = NETWORKS["wan"], 4 * size_of()
    found = replayed("--bucket-mib", "0")
    step = 4 * 0.25 + 4 * network.alpha + 4 / 3 * n * network.beta
    assert np.diff(found.times) == pytest.approx([step] * 4, rel=1e-4)
    assert [messages for messages, _ in found.traffic] == [4 * 4] * 3
    assert sum(sent for _, sent in found.traffic) == 4 * 2 * 2 * n


def test_a_slowed_rank_holds_the_others_up():
    """By what it computes longer, less a message a step that has long been there when it comes for it."""
    later = replayed("--bucket-mib", "0", slow={2: 3.0}).times[-1] - replayed("--bucket-mib", "0").times[-1]
    assert 4 * 2.0 - 4 * 0.051 < later <= 4 * 2.0


def test_sums_during_backward_end_earlier():
    """1 s of messages beside 1 s of computing: what backward comes to last is left, and the time between two looks."""
    gpt = configured(
        ["--layers", "2", "--heads", "2", "--width", "16", "--context", "8", "--batch-size", "2"]
    )
    network = Network("", "", "", alpha=1e-4, rate=4 * 11_000, source="")  # an all-reduce of two ranks: 1 s

    def seconds(bucket):
        gpt.sync.bucket_mib = bucket
        return replay(gpt, "ring", 2, network, 1.0, 2, cpu=False).times[-1] / 2

    whole = seconds(0)
    assert 1.3 < seconds(0.004) < whole - 0.4


def test_averaging_saves_what_it_does_not_send():
    whole = replayed("--bucket-mib", "0").times[-1]
    seldom = replayed("--sync", "averaging", "--period", "4")
    assert seldom.times[:4] == pytest.approx([0, 1, 2, 3])
    assert seldom.times[-1] == pytest.approx(4 + (whole - 4) / 4, rel=1e-3)


def test_the_servers_link_is_the_bottleneck():
    """W pushes into one link and W pulls out of it, and twice α: at first W n β each. From then on workers that were
    answered one after the other come one after the other, and the last does not wait for the others' pushes."""
    network, n = NETWORKS["wan"], 4 * size_of()
    found = replayed("--sync", "server", ranks=4)
    steps = [4 * 0.25 + 2 * network.alpha + pushes * n * network.beta for pushes in (3 + 3, 1 + 3)]
    assert np.diff(found.times) == pytest.approx([steps[0], *[steps[1]] * 3], rel=1e-3)


def test_asynchronous_workers_do_not_wait_for_a_slow_one():
    """Of three workers: rank 0's last step ends by its own time, where the synchronous server makes it wait."""
    network, n = NETWORKS["1gbe"], 4 * size_of()
    ends = {}
    for consistency in ("synchronous", "asynchronous"):
        options = ["--sync", "server", "--consistency", consistency, "--steps", "4"]
        config = configured([*MLP, *options])
        ends[consistency] = replay(config, None, 4, network, 0.25, 4, slow={1: 3.0}, cpu=False).ends
    push_and_pull = 2 * (network.alpha + n * network.beta)
    assert ends["asynchronous"][0] == pytest.approx(4 * (1 + push_and_pull), rel=1e-2)
    assert ends["asynchronous"][1] == pytest.approx(4 * (3 + push_and_pull), rel=1e-2)
    assert ends["synchronous"][0] > 4 * 3


def test_windows_take_the_time_of_messages():
    """Adding takes α and its bytes; reading asks first, and takes α more."""

    @alone(2)
    def found(comm):
        window = comm.Allocate_window(2, np.float32)
        comm.Barrier()
        began, one, two = comm.now(), np.ones(2, np.float32), np.zeros(2, np.float32)
        if comm.rank == 0:
            comm.Wait(window.Accumulate(one, 1))
            added = comm.now() - began
            comm.Wait(window.Get(two, 1))
            return added, comm.now() - began - added, two.tolist()
        return None

    assert found[0] == (pytest.approx(0.5 + 2.0), pytest.approx(0.5 + 0.5 + 2.0), [1.0, 1.0])


def test_what_cannot_be_modelled_says_why():
    config = configured(MLP)
    with pytest.raises(UserError, match="share no memory"):
        replay(config, "shared", 2, NETWORKS["wan"], 0.1, 1)
    with pytest.raises(UserError, match="what the MPI library sends cannot be seen"):
        replay(config, "mpi", 2, NETWORKS["wan"], 0.1, 1)


def test_times_are_extended_by_their_mean():
    assert extended([0.0, 1.0, 3.0], 4) == [0.0, 1.0, 3.0, 4.5, 6.0]
    assert extended([0.0, 1.0], 1) == [0.0, 1.0]
