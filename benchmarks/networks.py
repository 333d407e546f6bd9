"""Named networks, and the check of the time that is modelled on them against what was measured on a real link.

    python -m benchmarks.networks            # the constants, and modelled against measured (docs/results/link.json)

A message of n bytes takes α + n β: α seconds until its first byte is there, β = 1 / rate seconds for each. Every host
has one full-duplex link to a network that is never the bottleneck itself: what a host sends leaves one message after
the other at its link's rate, and what it receives comes in so. Ranks of one host exchange at no cost.
`simulated.py` has ranks keep time by this rule.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.collective_tables import Sheet
from benchmarks.collectives import publish
from benchmarks.environment import ROOT, environment
from benchmarks.simulated import run_simulated
from mpidp.collectives import COLLECTIVES
from mpidp.comm.world import say
from mpidp.errors import UserError

MEASURED = ROOT / "docs" / "results" / "link.json"
OUT = ROOT / "docs" / "results" / "networks.json"
HOSTS = {"block": (0, 0, 1, 1), "cyclic": (0, 1, 0, 1)}
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


def modelled_sum(network: Network, hosts: Sequence[int], route: str, size: int) -> float:
    """Seconds of one all-reduce of `size` bytes in float32, by the model alone (adding takes no time in it)."""
    n = size // 4

    def body(comm: Any) -> float:
        vector = COLLECTIVES[route].allocate(comm, n, np.dtype(np.float32))
        scratch = np.empty(-(-n // comm.size), np.float32)
        comm.local()
        comm.Barrier()
        began = comm.now()
        COLLECTIVES[route].allreduce(comm, vector, scratch)
        return comm.now() - began

    return max(run_simulated(len(hosts), network, body, hosts))


def check(measured: dict[str, Any]) -> dict[str, Any]:
    """The sums that `benchmarks/link.py` measured, beside what the model says of them."""
    if measured["rate"] != "1gbit":
        raise UserError(f"{MEASURED} is of a link of {measured['rate']}: this check is for 1gbit")
    lines = []
    for found in measured["sums"]:
        for line in found["sums"]:
            if line["route"] == "mpi":  # what the library sends cannot be seen
                continue
            seconds = median(line["rounds_s"])
            model = modelled_sum(
                NETWORKS["1gbe"], HOSTS[found["placement"]], line["route"], line["size_bytes"]
            )
            lines.append(
                {
                    "placement": found["placement"],
                    "route": line["route"],
                    "size_bytes": line["size_bytes"],
                    "measured_s": seconds,
                    "modelled_s": model,
                    "error": model / seconds - 1,
                }
            )
    return {
        "benchmark": "networks",
        "command": "python -m benchmarks.networks",
        "notes": [
            f"median error {100 * median(abs(line['error']) for line in lines):.0f} %, "
            f"largest {100 * max(abs(line['error']) for line in lines):.0f} %; measured by "
            f"{measured['command']} at commit {measured['environment']['commit']}"
        ],
        "environment": environment(),
        "networks": {
            n.name: {"alpha_s": n.alpha, "bytes_per_s": n.rate, "source": n.source} for n in NETWORKS.values()
        },
        "sums": lines,
    }


def constants() -> Sheet:
    """The networks as a table."""
    sheet = Sheet(
        "networks, for every host a link of its own",
        ["network", "α|µs", "rate|MB/s", "source"],
        words=("network", "source"),
    )
    for network in NETWORKS.values():
        sheet.rows.append(
            [network.title, f"{1e6 * network.alpha:,g}", f"{network.rate / 1e6:,.1f}", network.source]
        )
    return sheet


def sheets(report: dict[str, Any]) -> list[Sheet]:
    sheet = Sheet(
        "all-reduce over two hosts with 2 ranks each and 1 Gbit/s between them, modelled and measured",
        ["placement", "route", "size|B", "measured|ms", "modelled|ms", "error|%"],
        words=("placement", "route"),
    )
    for line in report["sums"]:
        times = [f"{1e3 * line[name]:,.1f}" for name in ("measured_s", "modelled_s")]
        error = f"{100 * line['error']:+.0f}"
        sheet.rows.append([line["placement"], line["route"], f"{line['size_bytes']:,}", *times, error])
    return [constants(), sheet]


def main(arguments: Sequence[str]) -> int:
    """Print and write the comparison; the exit code."""
    out = Path(arguments[0]) if arguments else OUT
    try:
        report = check(json.loads(MEASURED.read_text(encoding="utf-8")))
        publish(report, sheets(report), out)
    except UserError as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
