"""Ranks and messages: real MPI, or threads of one process, behind one small interface."""

from mpidp.comm.algorithm import Algorithm, Steps, UnderWay
from mpidp.comm.communicator import Communicator, Traffic
from mpidp.comm.threads import ThreadCommunicator, run_ranks

__all__ = [
    "Algorithm",
    "Communicator",
    "Steps",
    "ThreadCommunicator",
    "Traffic",
    "UnderWay",
    "run_ranks",
]
