"""A communicator for arrays on a device: what it does in any way of sending them, over one for arrays on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mpidp.arrays import Array, zeros
from mpidp.comm.communicator import Communicator, Traffic
from mpidp.comm.peers import Peers, Unreachable, told
from mpidp.comm.pending import Pending


class DeviceCommunicator(Communicator):
    """The communicator `inner` for device arrays too; arrays on the host go straight to it.

    Memory is shared on the device (`comm/peers.py`), where its driver lets ranks do so.
    """

    mode, way = "", ""  # in which messages leave the device: in a word, and as a run speaks of it

    def __init__(self, inner: Communicator, xp: Any):
        self.inner, self.xp = inner, xp
        traffic = inner.traffic
        super().__init__(inner.rank, inner.size, inner.timeout)
        self.traffic = traffic
        self.spin, self.library = inner.spin, inner.library
        self.peers: Peers | None = None
        self.unreachable: str | None = (
            None  # why peers' memory is, "" where it is not; None: nobody has tried
        )

    @property
    def traffic(self) -> Traffic:
        """What `inner` has sent, and besides how much was copied."""
        return self.inner.traffic

    @traffic.setter
    def traffic(self, traffic: Traffic) -> None:
        self.inner.traffic = traffic

    @property
    def about(self) -> str:
        return f"; {self.way}" + (
            f"; no memory shared between GPUs: {self.unreachable}" if self.unreachable else ""
        )

    # Memory that is shared on the device

    def unshared(self) -> str | None:
        """Whether ranks reach their neighbours' device memory is found by trying, once, before it is needed."""
        if self.unreachable is None:
            own = self.local()
            reason = trial(own.inner, self.xp) if own.size > 1 else ""
            self.unreachable = next(filter(None, told(self.inner, reason)), "")
        return self.unreachable or None

    def _share(self, n: int, dtype: np.dtype) -> list[Array]:
        if self.size == 1:
            return [zeros(self.xp, n, dtype)]
        if self.peers is None:
            self.peers = Peers(self.inner, self.xp)
        return self.peers.share(n, dtype)

    def _unshare(self) -> None:
        if self.peers:
            self.peers.close()
            self.peers = None
            self.inner.Free_shared()

    def Ibarrier(self) -> Pending:
        return self.fenced(self.inner.Ibarrier)

    def Ifence(self) -> Pending:
        if self.size == 1:  # it shares memory with nobody, on the host neither
            return Pending([], "nobody")
        return self.fenced(self.inner.Ifence)

    def fenced(self, start: Callable[[], Pending]) -> Pending:
        """What the ranks did on their devices before they meet there is done before what they do next."""
        if self.size == 1 or self.peers is None:
            return start()
        wait = self.peers.record()
        return followed(start(), wait)

    # The rest is that of `inner`

    def Iprobe(self, source: int, tag: int = 0) -> Pending:
        return self.inner.Iprobe(source, tag)

    def hosts(self) -> tuple[int, ...]:
        return self.inner.hosts()

    def twin(self, inner: Communicator) -> "DeviceCommunicator":
        """The same for other ranks."""
        raise NotImplementedError

    def _split(self, color: int, key: int) -> Communicator:
        part = self.twin(self.inner.Split(color, key))
        part.unreachable = self.unreachable
        return part

    def Abort(self, code: int) -> None:
        self.inner.Abort(code)


def followed(pending: Pending, then: Callable[[], None]) -> Pending:
    """`pending`, at whose end `then` is called."""

    def done() -> bool:
        then()
        return True

    pending.tests = [*pending.tests, done]
    return pending


def trial(comm: Communicator, xp: Any) -> str:
    """Why these ranks of one host do not read and write each other's device memory; "" where they do.

    Every rank writes one element of every vector, and adds up what all have written into all.
    """
    found = ""
    try:
        peers = Peers(comm, xp)
        vectors = peers.share(comm.size, np.dtype(np.int64))
        for vector in vectors:
            vector[comm.rank : comm.rank + 1].fill(1 + comm.rank)
        meet(peers)
        total = xp.zeros(comm.size, np.int64)
        for vector in vectors:
            total += vector
        sums = peers.gathered("read the others' memory", lambda: total.get().tolist())
        meet(peers)
        if any(theirs != [comm.size * (1 + rank) for rank in range(comm.size)] for theirs in sums):
            found = "what is read there is not what others wrote"
        peers.close()
    except Unreachable as error:
        found = str(error)
    comm.Free_shared()
    return found


def meet(peers: Peers) -> None:
    wait = peers.record()
    peers.comm.Barrier()
    wait()
