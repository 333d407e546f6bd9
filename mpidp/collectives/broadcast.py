"""Broadcast along a binomial tree."""

from mpidp.arrays import Array
from mpidp.comm import Communicator


def broadcast(comm: Communicator, buffer: Array, root: int = 0) -> None:
    """buffer ← rank `root`'s buffer, on every rank.

    Cost: ceil(lg P) rounds; P - 1 messages of n bytes in all, at most ceil(lg P) of them from one rank.
    """
    size = comm.size
    me = (comm.rank - root) % size  # the tree is drawn with the root as rank 0
    reach = 1
    while reach <= me:
        reach *= 2
    if me:
        comm.Recv(buffer, (me - reach // 2 + root) % size)
    while me + reach < size:
        comm.Send(buffer, (me + reach + root) % size)
        reach *= 2
