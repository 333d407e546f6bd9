"""Memory of ranks that other ranks reach by themselves: vectors shared inside a host, and windows between any ranks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.arrays import Array, address
from mpidp.comm.pending import Pending

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator


class Memory:
    """The verbs on memory, over those on messages that a `Communicator` adds."""

    rank: int
    neighbours: "Communicator | None"
    windows: dict[int, list[Array]]
    Barrier: Callable[[], None]

    # Inside a host

    def unshared(self) -> str | None:
        """Why the ranks of a host cannot reach each other's vectors; None: they can. All call it together first."""
        return None

    def Allocate_shared(self, n: int, dtype: Any) -> list[Array]:
        """A vector of zeros of every rank, in rank order, all of them in reach of this rank; ours is `[self.rank]`.

        n: elements of ours, which may differ from those of others. What a rank writes is there for the others after
        the next `Barrier` or `Ifence`. Only where `on_one_host()`.
        """
        vectors = self._share(n, np.dtype(dtype))
        vectors[self.rank][...] = 0
        if n:
            self.windows[address(vectors[self.rank])] = vectors
        self.Barrier()
        return vectors

    def Free_shared(self) -> None:
        """Give back all that `Allocate_shared` gave; every rank calls it, and none may touch that memory any more."""
        self.Barrier()
        self.windows.clear()
        self._unshare()
        if self.neighbours not in (None, self):
            self.neighbours.Free_shared()

    def shared_parts(self, buffer: Array) -> list[Array] | None:
        """Every rank's vector where `buffer` is ours of `Allocate_shared`; the same part of each where it is a part.

        None where it lies in no such vector.
        """
        for vectors in self.windows.values():
            if vectors[self.rank] is buffer:
                return vectors
        place = address(buffer)
        for start, vectors in self.windows.items():
            ours = vectors[self.rank]
            if start <= place < start + ours.nbytes:
                lo = (place - start) // ours.itemsize
                return vectors if buffer.size == ours.size else [v[lo : lo + buffer.size] for v in vectors]
        return None

    # Between any ranks

    def Allocate_window(self, n: int, dtype: Any) -> "Window":
        """A vector of n zeros of this rank that every rank can read and add to; all ranks call it, each with its n."""
        window = self._allocate_window(n, np.dtype(dtype))
        self.Barrier()
        return window

    def _share(self, n: int, dtype: np.dtype) -> list[Array]: ...

    def _unshare(self) -> None: ...

    def _allocate_window(self, n: int, dtype: np.dtype) -> "Window": ...


class Window:
    """A vector of every rank that any rank reads and adds to, with nothing for its owner to do.

    Each element is read and added to as a whole, a vector is not: who reads while others add may find some of their
    elements and not others. What one rank does to one vector is done in the order in which it started it: when it has
    read a vector, all that it added there before is in it.
    A transport supplies `_accumulate`, `_put`, `_get`, and `Progress` and `Free` where there is something to do.
    """

    def __init__(self, comm: "Communicator"):
        self.comm = comm

    def Accumulate(self, buffer: Array, target: int) -> Pending:
        """Start target's vector += buffer, of its length and type, which must stay as it is until `Wait`."""
        self._count(buffer, target)
        return self._pending(self._accumulate(buffer, target), target, buffer.nbytes)

    def Put(self, buffer: Array, target: int) -> Pending:
        """Start target's vector ← buffer, in the same way."""
        self._count(buffer, target)
        return self._pending(self._put(buffer, target), target, buffer.nbytes)

    def Get(self, buffer: Array, target: int) -> Pending:
        """Start buffer ← target's vector, of its length and type."""
        self._count(buffer, target)
        return self._pending(self._get(buffer, target), target, buffer.nbytes)

    def Progress(self) -> None:
        """Let the library do what others want of our vector: for ranks that compute, to be called now and then."""

    def _pending(self, test: Callable[[], bool], target: int, nbytes: int) -> Pending:
        what = "rank {}'s window to take or give {} bytes"
        return Pending([test], what, target, nbytes, self.comm.unfinished)

    def _count(self, buffer: Array, target: int) -> None:
        """An operation on another rank's vector counts as a message."""
        if target != self.comm.rank:
            self.comm.traffic.messages += 1
            self.comm.traffic.bytes += buffer.nbytes

    def Free(self) -> None:
        """Give the vectors back; every rank calls it, after a barrier behind the last use."""

    def _accumulate(self, buffer: Array, target: int) -> Callable[[], bool]: ...

    def _put(self, buffer: Array, target: int) -> Callable[[], bool]: ...

    def _get(self, buffer: Array, target: int) -> Callable[[], bool]: ...
