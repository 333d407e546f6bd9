"""Ranks as threads of one process: for tests, lessons and simulation, with no MPI at all."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpidp.comm.communicator import Communicator
from mpidp.comm.memory import Window
from mpidp.errors import RunError

LIBRARY_TAGS = 64  # collectives under way have tags of their own: -1, -2, ..., -64, -1, ...


class Mailboxes:
    """What all ranks of one process share: messages on their way, and the first failure."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.boxes: dict[tuple, deque[np.ndarray]] = defaultdict(deque)
        self.arrived: dict[tuple, int] = defaultdict(int)
        self.shared: dict[tuple, np.ndarray] = {}
        self.adding = threading.Lock()  # held by who adds to a window or reads one
        self.failure: BaseException | None = None

    def box(self, *key: Any) -> deque[np.ndarray]:
        with self.lock:
            return self.boxes[key]

    def check(self) -> None:
        if self.failure is not None:
            raise RunError("another rank of this process failed")


class ThreadCommunicator(Communicator):
    """A communicator whose ranks are threads; a message is copied when it is sent, so that a send never waits."""

    library = "threads"
    spin = 0.0  # threads share the interpreter: to spin is to keep it from the rank that is awaited

    def __init__(
        self,
        rank: int,
        size: int,
        mailboxes: Mailboxes | None = None,
        context: tuple = (),
        hosts: Sequence[int] | None = None,
    ):
        super().__init__(rank, size)
        self.placed = [0] * size if hosts is None else list(hosts)
        self.mailboxes = mailboxes or Mailboxes()
        self.context = context
        self.barriers = 0
        self.collectives = 0
        self.splits = 0
        self.shares = 0

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Callable[[], bool]:
        self.mailboxes.box(self.context, self.rank, dest, tag).append(raw.copy())
        return _done

    def _irecv(self, raw: np.ndarray, source: int, tag: int) -> Callable[[], bool]:
        box = self.mailboxes.box(self.context, source, self.rank, tag)

        def test() -> bool:
            if not box:
                self.mailboxes.check()
                return False
            message = box.popleft()
            if message.size != raw.size:
                raise RunError(
                    f"rank {self.rank} expected {raw.size} bytes from rank {source} but got {message.size}"
                )
            raw[:] = message
            return True

        return test

    def _iprobe(self, source: int, tag: int) -> Callable[[], bool]:
        box = self.mailboxes.box(self.context, source, self.rank, tag)

        def test() -> bool:
            self.mailboxes.check()
            return bool(box)

        return test

    def _ibarrier(self) -> Callable[[], bool]:
        self.barriers += 1
        here = (self.context, self.barriers)
        with self.mailboxes.lock:
            self.mailboxes.arrived[here] += 1

        def test() -> bool:
            self.mailboxes.check()
            return self.mailboxes.arrived[here] >= self.size

        return test

    def _iallreduce(self, buffer: np.ndarray) -> Callable[[], bool]:
        return self._gather(buffer, lambda parts: np.copyto(buffer, added(parts)))

    def _ireduce_scatter(
        self, buffer: np.ndarray, receive: np.ndarray, counts: Sequence[int]
    ) -> Callable[[], bool]:
        start = sum(counts[: self.rank])
        mine = slice(start, start + counts[self.rank])
        return self._gather(buffer, lambda parts: np.copyto(receive, added([part[mine] for part in parts])))

    def _iallgather(self, buffer: np.ndarray, counts: Sequence[int]) -> Callable[[], bool]:
        bounds = np.cumsum([0, *counts])

        def take(parts: list[np.ndarray]) -> None:
            for rank, part in enumerate(parts):
                buffer[bounds[rank] : bounds[rank + 1]] = part[bounds[rank] : bounds[rank + 1]]

        return self._gather(buffer, take)

    def _gather(self, buffer: np.ndarray, finish: Callable[[list[np.ndarray]], None]) -> Callable[[], bool]:
        """Give every rank our buffer; when all of theirs are here, `finish` with them."""
        tag = -1 - self.collectives % LIBRARY_TAGS
        self.collectives += 1
        for dest in range(self.size):
            self._isend(buffer.reshape(-1).view(np.uint8), dest, tag)
        parts = [np.empty_like(buffer) for _ in range(self.size)]
        tests = [
            self._irecv(part.reshape(-1).view(np.uint8), source, tag) for source, part in enumerate(parts)
        ]

        def test() -> bool:
            while tests and tests[-1]():
                tests.pop()
            if tests:
                return False
            finish(parts)
            return True

        return test

    def _hosts(self) -> Sequence[int]:
        return self.placed

    def _share(self, n: int, dtype: np.dtype) -> list[np.ndarray]:
        if not self.on_one_host():
            raise ValueError(f"ranks on the hosts {self.hosts()} share no memory")
        return self._vectors(n, dtype)

    def _allocate_window(self, n: int, dtype: np.dtype) -> Window:
        return ThreadWindow(self, self._vectors(n, dtype))

    def _vectors(self, n: int, dtype: np.dtype) -> list[np.ndarray]:
        """A new vector of zeros of every rank."""
        self.shares += 1
        everyone = [(self.context, self.shares, rank) for rank in range(self.size)]
        self.mailboxes.shared[everyone[self.rank]] = np.zeros(n, dtype)
        self.Barrier()
        return [self.mailboxes.shared[key] for key in everyone]

    def _unshare(self) -> None:
        for number in range(1, self.shares + 1):
            self.mailboxes.shared.pop((self.context, number, self.rank), None)

    def _split(self, color: int, key: int) -> Communicator:
        self.splits += 1
        members = sorted((k, rank) for rank, (c, k) in enumerate(self.allgather([color, key])) if c == color)
        rank = [r for _, r in members].index(self.rank)
        context = (*self.context, self.splits, color)
        placed = [self.placed[r] for _, r in members]
        return ThreadCommunicator(rank, len(members), self.mailboxes, context, placed)


class ThreadWindow(Window):
    """A window whose vectors lie in this process: an operation is done when it is started."""

    def __init__(self, comm: ThreadCommunicator, vectors: list[np.ndarray]):
        super().__init__(comm)
        self.vectors, self.lock = vectors, comm.mailboxes.adding

    def _accumulate(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        with self.lock:
            self.vectors[target] += buffer
        return _done

    def _put(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        with self.lock:
            self.vectors[target][...] = buffer
        return _done

    def _get(self, buffer: np.ndarray, target: int) -> Callable[[], bool]:
        with self.lock:
            buffer[...] = self.vectors[target]
        return _done


def _done() -> bool:
    return True


def added(parts: list[np.ndarray]) -> np.ndarray:
    """Their sum, in order."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def run_ranks(
    size: int,
    body: Callable[..., Any],
    *args: Any,
    timeout: float = 120.0,
    hosts: Sequence[int] | None = None,
) -> list[Any]:
    """Run `body(comm, *args)` on `size` ranks, each a thread of this process; their results in rank order.

    hosts: each rank's host, as if there were several, between which no memory is shared; default: all on one.
    The first exception of any rank ends all of them and is raised here.
    Raises RunError where they are not done after `timeout` seconds.
    """
    mailboxes = Mailboxes()
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = body(ThreadCommunicator(rank, size, mailboxes, hosts=hosts), *args)
        except BaseException as error:
            with mailboxes.lock:
                mailboxes.failure = mailboxes.failure or error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if mailboxes.failure is not None:
        raise mailboxes.failure
    if any(thread.is_alive() for thread in threads):
        error = RunError(f"{size} ranks were not done after {timeout:g} s")
        mailboxes.failure = error
        raise error
    return results
