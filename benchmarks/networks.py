"""Named networks, with their constants and where these are from.

A message of n bytes takes α + n β: α seconds until its first byte is there, β = 1 / rate seconds for each. Every host
has one full-duplex link to a network that is never the bottleneck itself: what a host sends leaves one message after
the other at its link's rate, and what it receives comes in so. Ranks of one host exchange at no cost.
`simulated.py` has ranks keep time by this rule, `model_check.py` compares it with measured times.
"""

from dataclasses import dataclass

ETHERNET = (
    1448 / 1538
)  # of a link's bits are a program's: a frame takes 1538 bytes of it, TCP's part has 1448


@dataclass(frozen=True)
class Network:
    """A link of every host: latency in seconds, rate in bytes a second each way, and where the figures are from."""

    name: str
    short: str
    title: str
    alpha: float
    rate: float
    source: str

    @property
    def beta(self) -> float:
        """Seconds a byte."""
        return 1 / self.rate


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "1gbe", "1 GbE", "gigabit Ethernet", 50e-6, 1e9 / 8 * ETHERNET,
            "α: MPICH over gigabit Ethernet, 50 µs (Lawlor, CS 441, University of Alaska Fairbanks, 2009); "
            "rate: 1 Gbit/s less frames, IP and TCP headers",
        ),
        Network(
            "10gbe", "10 GbE", "10-gigabit Ethernet", 20e-6, 10e9 / 8 * ETHERNET,
            "α: 20 µs between programs over TCP (Hurwitz & Feng, Hot Interconnects 11, 2003); "
            "rate: 10 Gbit/s less frames, IP and TCP headers",
        ),
        Network(
            "ib100", "IB 100", "100 Gbit/s InfiniBand", 1e-6, 12.1e9,
            "assumed: 1 µs and 12.1 GB/s (97 % of 100 Gbit/s), the order of what adapters of this class reach with MPI",
        ),
        Network(
            "wan", "WAN", "a wide-area network", 50e-3, 100e6 / 8,
            "assumed: 100 ms there and back, as between continents, and 100 Mbit/s for each site",
        ),
    )
}  # fmt: skip
