"""Nothing is read, sent or overwritten before the stream that works on it is done: whoever forgets it is found out."""

import inspect
import textwrap

import numpy as np
import pytest

from mpidp.comm import run_ranks, staging
from mpidp.comm.staging import Pool, StagedCommunicator


@pytest.fixture
def race():
    from cupy.streams import Race

    return Race


def two(cupy):
    return cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)


def test_another_stream_must_wait_for_an_event(cupy, race):
    for waits in (True, False):
        first, second = two(cupy)
        with first:
            x = cupy.ones(5)
            event = first.record()
            x += 1
            later = first.record()
        with second:
            second.wait_event(later if waits else event)
            if waits:
                assert (x + 1).get().tolist() == [3] * 5
            else:
                with pytest.raises(race):
                    x + 1


def test_events_know_what_their_stream_waited_for(cupy):
    first, second = two(cupy)
    with first:
        x = cupy.ones(5)
    with second:
        second.wait_event(first.record())
        third = cupy.cuda.Stream(non_blocking=True)
        third.wait_event(second.record())
    with third:
        x += 1


def test_a_copy_to_the_host_is_garbage_until_it_is_waited_for(cupy):
    x, copy = cupy.ones(5), np.zeros(5)
    x.get(out=copy, blocking=False)
    assert not (copy == 1).any()
    cupy.cuda.get_current_stream().synchronize()
    assert (copy == 1).all()


def test_what_is_being_copied_to_the_device_must_stay(cupy, race):
    stream, x, host = cupy.cuda.Stream(non_blocking=True), cupy.zeros(5), np.ones(5)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    x.set(host, stream=stream)
    host[0] = 2
    with pytest.raises(race, match="changed while"):
        stream.synchronize()


def test_memory_is_not_given_away_while_a_stream_works_on_it(cupy, race):
    x = cupy.ones(5) + 1
    with pytest.raises(race):
        _ = x.__cuda_array_interface__
    cupy.cuda.get_current_stream().synchronize()
    assert x.__cuda_array_interface__["shape"] == (5,)


def passed_on(cupy):
    """Rank 0 sends rank 1 what its device has just computed, into memory that rank 1's device has just read."""

    def body(comm):
        with cupy.cuda.Stream(non_blocking=True):
            comm = StagedCommunicator(comm, cupy, Pool(cupy))
            x = cupy.arange(1001.0)
            for _ in range(3):
                y = x * 3
                if comm.rank == 0:
                    x += y
                    comm.Send(x, 1)
                else:
                    comm.Recv(x, 0)
                    x += 0
            comm.pool.copies.synchronize()
            return x.get()

    return run_ranks(2, body)


def without(monkeypatch, owner, method: str, line: str) -> None:
    """`method` as it stands, but for the one line that has this in it."""
    lines = textwrap.dedent(inspect.getsource(getattr(owner, method))).splitlines()
    hits = [i for i, text in enumerate(lines) if line in text]
    assert len(hits) == 1, f"{line!r} is {len(hits)} times in {method}"
    indent = len(lines[hits[0]]) - len(lines[hits[0]].lstrip())
    lines[hits[0]] = " " * indent + "pass"
    names: dict = {}
    exec("\n".join(lines), vars(staging), names)
    monkeypatch.setattr(owner, method, names[method])


def test_staged_messages_race_nowhere(cupy):
    for found in passed_on(cupy):
        assert (found == 64 * np.arange(1001)).all()


@pytest.mark.parametrize(
    "method, line",
    [
        (
            "to_host",
            "self.copies.wait_event(",
        ),  # the copy begins before the device has computed what it copies
        ("to_device", "self.copies.wait_event("),  # it is written over while the device still reads it
        ("to_device", "stream.wait_event("),  # the device computes with what has not arrived
    ],
)
def test_an_event_that_is_left_out_is_a_race(cupy, race, monkeypatch, method, line):
    without(monkeypatch, Pool, method, line)
    with pytest.raises(race):
        passed_on(cupy)


def test_what_is_sent_before_it_is_copied_is_a_race(cupy, race, monkeypatch):
    def send_at_once(pool):
        while pool.leaving:
            pool.leaving.popleft().start()

    monkeypatch.setattr(Pool, "start_due", send_at_once)
    with pytest.raises(race):
        passed_on(cupy)


def test_memory_that_is_used_again_too_early_is_a_race(cupy, race, monkeypatch):
    to_device = Pool.to_device

    def given_back(pool, piece, copy, array):
        to_device(pool, piece, copy, array)
        pool.arriving.pop()
        pool.give(piece)

    monkeypatch.setattr(Pool, "to_device", given_back)
    with pytest.raises(race, match="changed while"):
        passed_on(cupy)


def test_a_message_leaves_whatever_its_sender_waits_for(cupy):
    """Rank 0 has sent to rank 1, and waits on another communicator for rank 1, which waits for that message."""

    def body(comm):
        other = comm.Dup()
        comm = StagedCommunicator(comm, cupy, Pool(cupy))
        comm.timeout = other.timeout = 20
        x = cupy.full(10, comm.rank)
        if comm.rank == 0:
            pending = comm.Isend(x, 1)
        else:
            comm.Recv(x, 0)
        other.Barrier()
        if comm.rank == 0:
            comm.Wait(pending)
        return x.get().tolist()

    assert run_ranks(2, body) == [[0] * 10] * 2


def test_two_streams_may_read_at_a_time_and_none_write(cupy, race):
    x = cupy.ones(5)
    first, second = two(cupy)
    for stream in (first, second):
        stream.wait_event(cupy.cuda.get_current_stream().record())
    with first:
        assert (x + 1).size
    with second:
        assert (x + 2).size
        with pytest.raises(race):
            x += 1
