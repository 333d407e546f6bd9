"""ZeRO's second stage: gradients reach their owners during backward, in rank order, and leave no memory behind."""

import mmap
import sys
import time
from functools import partial

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.config import resolve
from mpidp.errors import UserError
from mpidp.strategies.owners import HUGE_PAGE, LANES, Pages, ToOwners
from tests.runs import LONG, Run, relative

PAGE = mmap.PAGESIZE // 8  # elements
N = 23 * PAGE + 100
LENGTHS = [1, PAGE + 1, 5 * PAGE, 10 * N]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives memory back as only Linux takes it")


def vector(rank: int) -> np.ndarray:
    return np.random.default_rng([rank, N]).normal(size=N)


def chunks(size: int) -> list[slice]:
    return [slice(r * N // size, (r + 1) * N // size) for r in range(size)]


def present(array: np.ndarray) -> np.ndarray:
    """Of each page of the array's memory, whether the system provides it now (proc(5), pagemap)."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(array.ctypes.data // mmap.PAGESIZE * 8)
        words = np.frombuffer(file.read(-(-array.nbytes // mmap.PAGESIZE) * 8), np.uint64)
    return words >> np.uint64(63) != 0


def test_pages_come_with_writing_and_go_with_release():
    pages = Pages(np, N, np.float64)
    assert not present(pages.vector).any() and pages.vector.ctypes.data % HUGE_PAGE == 0
    pages.vector[...] = 1
    assert present(pages.vector).all()
    pages.release(slice(PAGE // 2, 3 * PAGE + 1))  # holds two whole pages
    assert present(pages.vector).tolist() == [i not in (1, 2) for i in range(24)]
    assert (
        not pages.vector[PAGE : 3 * PAGE].any()
        and pages.vector[:PAGE].all()
        and pages.vector[3 * PAGE :].all()
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_sums_in_rank_order_whoever_is_first(ranks, length):
    """Ranks announce different slices at different times; one announces all at once."""

    def body(comm):
        pages, mine = Pages(np, N, np.float64), chunks(comm.size)[comm.rank]
        summing = ToOwners(comm, pages, chunks(comm.size), length)
        rng = np.random.default_rng(comm.rank)
        for _ in range(3):
            pages.vector[...] = vector(comm.rank)
            before = comm.traffic.copy()
            for lo in [0] if comm.rank == 1 else sorted({0, *rng.integers(0, N, 6).tolist()}, reverse=True):
                if comm.rank == 2:
                    time.sleep(1e-3)
                summing.ready(pages.vector, lo)
                summing.advance(pages.vector)
            summing.finish(pages.vector)
            sent = comm.traffic - before
            assert (sent.messages, sent.bytes) == summing.cost()
        return mine, pages.vector[mine].copy()

    expected = vector(0)
    for rank in range(1, ranks):
        expected += vector(rank)
    for mine, total in run_ranks(ranks, body):
        assert (total == expected[mine]).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_only_the_own_chunk_keeps_memory(ranks):
    """But for the pages that a chunk's bound cuts in two."""

    def body(comm):
        pages = Pages(np, N, np.float64)
        summing = ToOwners(comm, pages, chunks(comm.size), PAGE)
        pages.vector[...] = vector(comm.rank)
        summing.ready(pages.vector, 0)
        most_held = present(pages.vector).sum()
        summing.finish(pages.vector)
        return most_held, present(pages.vector).sum()

    for early, held in run_ranks(ranks, body):
        assert 23 // ranks <= held <= 24 // ranks + 2
        assert early <= held + LANES


def test_no_more_is_held_than_there_are_lanes():
    """A rank that is far ahead of the owner waits, in `ready`, until there is room."""

    def body(comm):
        pages = Pages(np, N, np.float64)
        summing = ToOwners(comm, pages, [slice(0, N), slice(N, N)], PAGE)
        pages.vector[...] = 1
        sends = []
        if comm.rank == 1:
            comm._isend = lambda *_: lambda: bool(sends)  # nobody takes it yet
            comm.timeout = 0.05
            with pytest.raises(Exception, match="waited"):
                summing.ready(pages.vector, 0)
            return summing.started, len(summing.under_way)

    assert run_ranks(2, body)[1] == (LANES, LANES)


class Stage2(Run):
    """As `Run`, in buckets of one page."""

    def __init__(self, comm, **settings):
        super().__init__(comm, "sharded", 1, **settings)
        strategy, size = self.strategy, comm.size
        parts = [strategy.route.part(self.model.size, size, rank) for rank in range(size)]
        strategy.sum = ToOwners(strategy.comm, strategy.pages, parts, 1)


@pytest.mark.parametrize("split", ["contiguous", "dirichlet"])
def test_the_same_bits_as_servers(split):
    """The sum over workers in their order, with as many samples on each: a server beside three workers has them."""
    how = {"split": split, "optimizer": ("adamw", {}), "lr": 0.01}
    served = run_ranks(4, lambda comm: Run(comm, "server", 0, **how).steps(6).merged())[0]
    for kind in (Stage2, partial(Run, name="sharded", case=1)):
        sharded = run_ranks(3, lambda comm, kind=kind: kind(comm, **how).steps(6).merged())
        assert all((result == served).all() for result in sharded)
    other = run_ranks(3, lambda comm: Run(comm, "sharded", 0, **how).steps(6).merged())[0]
    assert 0 < relative(other, served) < 1e-12


def test_messages_leave_and_memory_goes_during_backward():
    def body(comm):
        run = Stage2(comm, hidden=LONG)
        strategy, seen = run.strategy, []
        step = strategy.step
        start = strategy.comm.traffic.messages

        def spy(s):
            seen.append((strategy.comm.traffic.messages - start, present(strategy.grads).sum()))
            step(s)

        strategy.step = spy
        run.steps(1)
        return *seen[0], strategy.sum.cost()[0], len(present(strategy.grads)), present(strategy.params).all()

    for sent, held, buckets, pages, parameters in run_ranks(2, body):
        assert sent == buckets > LANES
        assert held <= pages // 2 + LANES + 2 and parameters


def refused(**given) -> str:
    with pytest.raises(UserError) as error:
        resolve({"sync": "sharded"} | {name.replace("_", "-"): value for name, value in given.items()}, {})
    return str(error.value)


def test_what_does_not_go_together_is_refused():
    assert "--micro-batch 2 adds up whole gradients" in refused(stage=2, micro_batch=2)
    assert "--collective ring: --stage 2 sends" in refused(stage=2, collective="ring")
    assert "--compress int8: --stage 2" in refused(stage=2, compress="int8")
    assert "--bucket-mib 3 is used by --stage 2" in refused(bucket_mib=3)
    assert "must be at most 2" in refused(stage=3)
    assert resolve({"sync": "sharded", "stage": 2, "bucket-mib": 3}, {}).run.collective is None


def test_elsewhere_than_on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="only Linux"):
        Pages(np, N, np.float64)
