"""Ranks and messages: real MPI, or threads of one process, behind one small interface."""

from mpidp.comm.communicator import Communicator, Traffic
from mpidp.comm.threads import ThreadCommunicator, run_ranks

__all__ = ["Communicator", "ThreadCommunicator", "Traffic", "run_ranks"]
