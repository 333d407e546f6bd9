"""What the threads that write a checkpoint tell rank 0's, while every main thread trains on."""

import threading
import time
from collections import defaultdict
from typing import Any

from mpidp.comm import Communicator
from mpidp.errors import RunError

KIND = "checkpoint"  # of the control plane's messages


class Reports:
    """A report a rank and step (JSON-able), on their way to rank 0: told and awaited by threads that write, alone.

    Where ranks are processes they go by the control plane, which needs no main thread and no MPI; where they are
    threads, by messages. All ranks make it together. `name`: the same on every rank, and no other run's.
    """

    def __init__(self, comm: Communicator, name: str):
        self.control, self.name = comm.control, name
        self.comm = comm if self.control else comm.Dup()
        if self.control is not None:
            self.heard: dict[int, dict[int, Any]] = defaultdict(dict)  # step -> rank -> report
            self.news = threading.Condition()
            self.past = -1  # step of the last checkpoint that rank 0 has completed, or given up
            self.control.on(KIND, self.hear if comm.rank == 0 else self.hear_of_the_end)
            self.members = comm.allgather(self.control.rank)  # of the job: what the control plane calls them

    def tell(self, step: int, report: Any) -> None:
        """This rank's report of that step."""
        if self.control is not None:
            self.control.tell(KIND, [self.name, step, self.comm.rank, report], self.members[0])
        elif self.comm.rank > 0:
            self.comm._send_object(report, 0)
        else:
            self.ours = report

    def of_all(self, step: int) -> list[Any]:
        """On rank 0, after its own: every rank's report, when all of them are here.

        Raises RunError where one will never come.
        """
        if self.control is None:
            return [self.ours] + [self.comm._receive_object(rank) for rank in range(1, self.comm.size)]
        with self.news:
            while len(self.heard[step]) < self.comm.size:
                for rank, member in enumerate(self.members):
                    if member in self.control.lost and rank not in self.heard[step]:
                        raise RunError(f"rank {rank} was lost before its part was written")
                self.news.wait(0.2)
            everyone = self.heard.pop(step)
        return [everyone[rank] for rank in range(self.comm.size)]

    def end(self, step: int) -> None:
        """Rank 0's: tell the others that nothing of this step's checkpoint is under way any more."""
        if self.control is not None:
            for member in self.members[1:]:
                self.control.tell(KIND, [self.name, step], member)

    def await_end(self, step: int, limit: float) -> None:
        """Return when this step's checkpoint has ended on rank 0, is lost with it, or at this monotonic time."""
        if self.control is None or self.comm.rank == 0:
            return
        with self.news:
            while self.past < step and self.members[0] not in self.control.lost and time.monotonic() < limit:
                self.news.wait(0.1)

    def hear_of_the_end(self, member: int, value: Any) -> None:
        """As `hear`."""
        name, step = value
        if name == self.name:
            with self.news:
                self.past = step
                self.news.notify_all()

    def hear(self, member: int, value: Any) -> None:
        """A message of the control plane: called in its thread."""
        name, step, rank, report = value
        if name == self.name:
            with self.news:
                self.heard[step][rank] = report
                self.news.notify_all()
