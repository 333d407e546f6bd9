"""Strategies: what is exchanged between ranks, and when. One a file, one line here."""

from mpidp.strategies.adasum import Adasum
from mpidp.strategies.allreduce import AllReduce
from mpidp.strategies.averaging import Averaging
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.independent import Independent
from mpidp.strategies.server import Server
from mpidp.strategies.sharded import Sharded

__all__ = ["STRATEGIES", "Setup", "Step", "Strategy"]

STRATEGIES: dict[str, type[Strategy]] = {
    "allreduce": AllReduce,
    "adasum": Adasum,
    "sharded": Sharded,
    "server": Server,
    "averaging": Averaging,
    "none": Independent,
}
