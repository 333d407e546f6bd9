"""Batches on their way to a device, one ahead of the step that uses them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.data.schema import Dataset
from mpidp.errors import RunError


@dataclass
class Slot:
    """Memory for one batch: page-locked on the host, and as much on the device."""

    pinned: list[np.ndarray]
    arrays: list[Array]
    indices: np.ndarray  # of the samples that it holds
    copied: Any  # event: they are on the device
    used: Any = None  # event: the work that reads them is done


class Feed:
    """Samples of a data set by their indices, as arrays on the device.

        prepare(t + 1)    host: gather into page-locked memory; on a stream of its own: to the device, while t computes
        take(t + 1)       the stream that computes waits for that copy; nothing else does

    What was prepared and is not asked for (the run goes back, goes on with other ranks, or stops) is forgotten: indices
    alone decide, so that a batch has the same bits whether it was prepared or not. Two slots take turns, for the device
    still reads one batch while the next one arrives.
    """

    def __init__(self, data: Dataset, xp: Any):
        self.data, self.xp = data, xp
        self.copies = xp.cuda.Stream(non_blocking=True)
        self.slots: list[Slot | None] = [None, None]
        self.turn = 0  # the slot that was filled last

    def prepare(self, indices: np.ndarray) -> None:
        """Start to bring these samples to the device; to be called when all work on the batch before is given to it.

        What is wrong with the data is left to `take`, which may never be called.
        """
        with contextlib.suppress(RunError):
            self.fill(indices)

    def take(self, indices: np.ndarray) -> list[Array]:
        """[x, y] of these samples, on the device; they hold until the second `prepare` from now on."""
        slot = self.slots[self.turn]
        if slot is None or slot.used is not None or not np.array_equal(slot.indices, indices):
            slot = self.fill(indices)
        self.xp.cuda.get_current_stream().wait_event(slot.copied)
        return slot.arrays

    def fill(self, indices: np.ndarray) -> Slot:
        compute = self.xp.cuda.get_current_stream()
        if (before := self.slots[self.turn]) is not None:
            before.used = compute.record()
        batch = self.data.batch(indices)
        turn = 1 - self.turn
        slot = self.slots[turn]
        if slot is not None:
            slot.copied.synchronize()  # which began two steps ago
        if slot is not None and fits(slot.pinned, batch):
            self.copies.wait_event(slot.used)
        else:
            slot = self.slots[turn] = self.new(batch)
        for host, pinned, array in zip(batch, slot.pinned, slot.arrays, strict=True):
            pinned[...] = host
            array.set(pinned, stream=self.copies)
        slot.indices, slot.copied, slot.used = indices.copy(), self.copies.record(), None
        self.turn = turn
        return slot

    def new(self, batch: Sequence[np.ndarray]) -> Slot:
        arrays = [self.xp.empty(host.shape, host.dtype) for host in batch]
        self.copies.wait_event(self.xp.cuda.get_current_stream().record())  # whose memory it may have been
        return Slot([self.pinned(host) for host in batch], arrays, np.empty(0, np.int64), None)

    def pinned(self, like: np.ndarray) -> np.ndarray:
        memory = self.xp.cuda.alloc_pinned_memory(max(1, like.nbytes))
        return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)


def fits(memory: Sequence[np.ndarray], batch: Sequence[np.ndarray]) -> bool:
    return all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(memory, batch, strict=True))
