"""Strategies: what is exchanged between ranks, and when. One a file, one line here."""

from mpidp.strategies.adasum import Adasum
from mpidp.strategies.allreduce import AllReduce
from mpidp.strategies.averaging import Averaging
from mpidp.strategies.base import Setup, Step, Strategy
from mpidp.strategies.elastic import ElasticAveraging
from mpidp.strategies.gossip import Gossip
from mpidp.strategies.independent import Independent
from mpidp.strategies.onesided import OneSided
from mpidp.strategies.server import Server
from mpidp.strategies.sharded import Sharded
from mpidp.strategies.streaming import Streaming

__all__ = ["STRATEGIES", "Setup", "Step", "Strategy"]

STRATEGIES: dict[str, type[Strategy]] = {
    "allreduce": AllReduce,
    "adasum": Adasum,
    "sharded": Sharded,
    "server": Server,
    "onesided": OneSided,
    "averaging": Averaging,
    "streaming": Streaming,
    "elastic": ElasticAveraging,
    "gossip": Gossip,
    "none": Independent,
}
