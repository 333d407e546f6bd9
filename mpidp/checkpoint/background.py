"""Writing checkpoints while training goes on.

    main thread, on every rank    copy what `Strategy.saved` gives: the only pause
    thread that writes            write the copy, synced and hashed; tell rank 0's
    rank 0's, when all have told  write the manifest, rename, drop the oldest; or remove what there is of it

No main thread waits for another rank. At most one checkpoint is under way: where the next one is due before it is
complete, training waits, so that a run keeps the checkpoints that its user asked for, and says so once.
"""

import contextlib
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpidp import __version__
from mpidp.arrays import Array, to_host
from mpidp.checkpoint import tensors
from mpidp.checkpoint.manifest import FORMAT, file_name, finish, folder_name, put_aside, remove_partial, why
from mpidp.checkpoint.reports import Reports
from mpidp.comm import Communicator

TIDE = 99  # message tag: no message has it

SEEN_LATE = 30.0
"""Seconds after which a file that another host has written is given up: file systems that hosts share show it late."""

Facts = Callable[[list[Any]], dict[str, Any]]


class Checkpoints:
    """The checkpoints of a run, of which the last `keep` stay. All ranks make it together.

    damaged: those that are none any more; they are kept aside, since their owner may still know what to do with them.
    unfit: why a rank's arrays are nothing to go on from, if so; asked in the thread that writes.
    """

    def __init__(
        self,
        comm: Communicator,
        folder: Path,
        keep: int,
        damaged: Sequence[Path] = (),
        unfit: Callable[[Mapping[str, np.ndarray]], str | None] = lambda arrays: None,
    ):
        self.comm, self.folder, self.keep, self.unfit = comm, folder, keep, unfit
        if comm.rank == 0:
            remove_partial(folder)
            for path in damaged:
                put_aside(path)
        self.token = comm.bcast(secrets.token_hex(4))  # no thread of an earlier run writes into our files
        self.reports = Reports(comm, self.token)
        self.thread: threading.Thread | None = None
        self.copies: dict[str, np.ndarray] = {}
        self.begun: int | None = None  # the step of the last one
        self.news: deque[tuple[int, str | None]] = (
            deque()
        )  # rank 0's, of checkpoints that have ended: (step, error)
        self.error: str | None = None  # of the last of them
        self.written, self.failed = 0, 0
        self.pause = 0.0  # seconds: the longest one, to copy

    def save(self, step: int, arrays: Mapping[str, Array], facts: Facts, part: Any = None) -> float:
        """Begin a checkpoint: all ranks, each with its own arrays, which may change when this returns.

        The seconds for which the one before had to be awaited.

        facts: on rank 0, makes what the manifest says beside from all ranks' `part` (JSON-able); called in a thread.
        """
        began = time.perf_counter()
        self.settle()
        copied_from = time.perf_counter()
        error = None
        try:
            self.copies = {name: self.copy(name, array) for name, array in arrays.items()}
        except MemoryError:
            self.copies, error = {}, "no memory for the copy that is to be written"
        self.pause, self.begun = max(self.pause, time.perf_counter() - copied_from), step
        self.thread = threading.Thread(
            target=self.write, args=(step, error, facts, part), name="checkpoint", daemon=True
        )
        self.thread.start()
        return copied_from - began

    def prepare(self, arrays: Mapping[str, Array]) -> None:
        """Find memory for copies of such arrays, in a thread: to find it takes as long as to write."""
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}

        def find() -> None:
            with contextlib.suppress(MemoryError):
                for name, (shape, dtype) in shapes.items():
                    self.copies[name] = np.empty(shape, dtype)
                    self.copies[name].fill(0)

        self.thread = threading.Thread(target=find, name="checkpoint", daemon=True)
        self.thread.start()

    def copy(self, name: str, array: Array) -> np.ndarray:
        """A copy in the memory of the last one, if it fits."""
        ours, kept = to_host(array), self.copies.get(name)
        if kept is None or kept.shape != ours.shape or kept.dtype != ours.dtype:
            kept = np.empty(ours.shape, ours.dtype)
        np.copyto(kept, ours)
        return kept

    def settle(self) -> None:
        """Return when nothing of this rank is under way: on rank 0, when the checkpoint is complete or given up.

        MPI moves the others' messages on meanwhile, without which they might not come to write their part.
        Raises RunError where that takes longer than `--timeout`.
        """
        thread, tide = self.thread, self.comm.Iprobe(self.comm.rank, TIDE)

        def ended() -> bool | None:
            self.comm.Test(tide)
            return None if thread and thread.is_alive() else True

        self.comm._poll(ended, lambda: "its checkpoint to be written")

    def finish(self) -> str | None:
        """As `settle`, on all ranks together; None on each, or why the last checkpoint is not there."""
        self.settle()
        return self.comm.bcast(self.error)

    def ended(self) -> Iterator[tuple[int, str | None]]:
        """On rank 0, of the checkpoints that were begun, those that have ended since the last call: (step, error)."""
        while self.news:
            yield self.news.popleft()

    def figures(self) -> list[float]:
        """For the summary: those written, those that could not be, this rank's longest pause."""
        return [self.written, self.failed, self.pause]

    def leave(self, seconds: float) -> None:
        """This rank is about to end: have the checkpoint under way complete first, if it can be in this time."""
        limit = time.monotonic() + seconds
        if self.thread is not None:
            self.thread.join(seconds)
        if self.begun is not None:
            self.reports.await_end(self.begun, limit)

    # The thread that writes

    def write(self, step: int, error: str | None, facts: Facts, part: Any) -> None:
        partial = self.folder / f".{folder_name(step)}.{self.token}.partial"
        digest, size = None, 0
        try:
            error = error or self.unfit(self.copies)
            if error is None and (self.copies or self.comm.rank == 0):
                self.folder.mkdir(exist_ok=True)
                partial.mkdir(exist_ok=True)
            if error is None and self.copies:
                digest, size = tensors.write(partial / file_name(self.comm.rank), self.copies)
        except Exception as caught:  # whatever it is, training goes on, and rank 0 must hear of it
            error = why(caught)
        try:
            self.reports.tell(step, [error, digest, size, part])
            if self.comm.rank == 0:
                self.complete(step, partial, facts)
        except Exception as caught:
            error = why(caught)
            if self.comm.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
        if self.comm.rank == 0:
            self.error = error
            self.written, self.failed = self.written + (error is None), self.failed + (error is not None)
            self.news.append((step, error))
            self.reports.end(step)

    def complete(self, step: int, partial: Path, facts: Facts) -> None:
        """Wait for all ranks' reports, and have the checkpoint count. Raises OSError where a rank could not write."""
        everyone = self.reports.of_all(step)
        failed = [f"rank {rank}: {error}" for rank, (error, *_) in enumerate(everyone) if error is not None]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise OSError(failed[0] + more)
        files = {}
        for rank, (_, digest, size, _) in enumerate(everyone):
            if digest is not None:
                files[file_name(rank)] = digest
                self.see(partial / file_name(rank), size, rank)
        for other in partial.iterdir():
            if other.name not in files:
                other.unlink()
        said = facts([part for *_, part in everyone])
        about = {
            "format": FORMAT,
            "mpidp": __version__,
            "step": step,
            "ranks": self.comm.size,
            "files": files,
        }
        finish(partial, about | said, self.keep)

    def see(self, path: Path, size: int, rank: int) -> None:
        """Return when that file is seen on this host. Raises OSError where that takes too long."""
        limit = time.monotonic() + SEEN_LATE
        while not path.is_file() or path.stat().st_size != size:
            if time.monotonic() > limit:
                raise OSError(
                    f"rank {rank} has written {path.name}, which rank 0 does not see: --run-dir must be on a "
                    "file system that all hosts share"
                )
            time.sleep(0.05)


def checkpoint_figures(everyone: Sequence[Sequence[float]]) -> dict[str, float]:
    """For the summary, of all ranks' `figures`: nothing for a run without checkpoints."""
    (written, failed, _), *_ = everyone
    if not written + failed:
        return {}
    pause = max(pause for *_, pause in everyone)
    return {"checkpoints_written": written, "checkpoints_failed": failed, "checkpoint_pause": pause}
