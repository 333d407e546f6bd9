"""Ranks as MPI processes."""

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from mpidp.comm.communicator import Communicator
from mpidp.errors import UserError


class MPICommunicator(Communicator):
    """A communicator over an MPI one, with non-blocking operations only, so that every wait can be polled."""

    def __init__(self, comm: MPI.Comm):
        super().__init__(comm.rank, comm.size)
        self.comm = comm

    def _isend(self, raw: np.ndarray, dest: int, tag: int) -> Callable[[], bool]:
        return self.comm.Isend((raw, MPI.BYTE), dest, tag).Test

    def _irecv(self, raw: np.ndarray, source: int, tag: int) -> Callable[[], bool]:
        return self.comm.Irecv((raw, MPI.BYTE), source, tag).Test

    def _ibarrier(self) -> Callable[[], bool]:
        return self.comm.Ibarrier().Test

    def _iallreduce(self, buffer: np.ndarray) -> Callable[[], bool]:
        if buffer.dtype not in (np.float32, np.float64):
            raise UserError(
                f"--collective mpi: the MPI library cannot add {buffer.dtype}; use --collective ring"
            )
        return self.comm.Iallreduce(MPI.IN_PLACE, buffer, MPI.SUM).Test

    def _split(self, color: int, key: int) -> Communicator:
        return MPICommunicator(self.comm.Split(color, key))

    def Abort(self, code: int) -> None:
        self.comm.Abort(code)
