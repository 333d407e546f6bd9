"""How far the modelled time is from what was measured on a real link.

    python -m benchmarks.model_check [FILE]    # against docs/results/link.json, which benchmarks.link measures

1 Gbit/s between two hosts: sums by every route that can be seen into, and training with its messages during backward
and after it.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.collective_tables import Sheet
from benchmarks.collectives import publish
from benchmarks.environment import ROOT, environment
from benchmarks.networks import NETWORKS, Network
from benchmarks.replay import replay
from benchmarks.simulated import SimulatedCommunicator, run_simulated
from mpidp.collectives import COLLECTIVES
from mpidp.comm.world import say
from mpidp.errors import UserError

MEASURED = ROOT / "docs" / "results" / "link.json"
OUT = ROOT / "docs" / "results" / "model-check.json"
HOSTS = {"block": (0, 0, 1, 1), "cyclic": (0, 1, 0, 1)}
NETWORK = NETWORKS["1gbe"]
TRAINING = {"blocking": ["--bucket-mib", "0"], "overlapped": []}
STEPS = 3  # modelled; the first differs, since all ranks begin it together


def modelled_sum(network: Network, hosts: Sequence[int], route: str, size: int) -> float:
    """Seconds of one all-reduce of `size` bytes in float32, by the model alone (adding takes no time in it)."""
    n = size // 4

    def body(comm: SimulatedCommunicator) -> float:
        vector = COLLECTIVES[route].allocate(comm, n, np.dtype(np.float32))
        scratch = np.empty(COLLECTIVES[route].scratch(n, comm.size), np.float32)
        comm.local()
        comm.Barrier()
        began = comm.now()
        COLLECTIVES[route].allreduce(comm, vector, scratch)
        return comm.now() - began

    return max(run_simulated(len(hosts), network, body, hosts))


def sums(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Each measured sum but the MPI library's, which cannot be seen into, beside the modelled one."""
    return [
        {
            "placement": found["placement"],
            "route": line["route"],
            "size_bytes": line["size_bytes"],
        }
        | compared(
            median(line["rounds_s"]),
            modelled_sum(NETWORK, HOSTS[found["placement"]], line["route"], line["size_bytes"]),
        )
        for found in measured["sums"]
        for line in found["sums"]
        if line["route"] in COLLECTIVES and line["route"] != "mpi"
    ]


def training(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A step of training with messages; its gradient and update take what a step without messages was measured to."""
    found, case = measured["training"], cases.cases()[measured["training"]["case"]]
    alone = median(found["training"]["no messages"]["rounds_s"]) / case.batch
    lines = []
    with tempfile.TemporaryDirectory(prefix="mpidp-check-") as text:
        folder = Path(text)
        cases.write_data(case, 2, folder)
        for way, options in TRAINING.items():
            arguments = [*cases.arguments(case, 2, folder), "--sync", "allreduce", *options]
            config = cases.configured(
                [*arguments, "--optimizer", "sgd"]
            )  # whose update takes no time: it is in `alone`
            times = replay(config, "ring", 2, NETWORK, alone, STEPS, cpu=False).times
            measured_s = median(found["training"][way]["rounds_s"])
            lines.append({"messages": way} | compared(measured_s, (times[-1] - times[1]) / (STEPS - 1)))
    return lines


def compared(measured: float, modelled: float) -> dict[str, float]:
    return {"measured_s": measured, "modelled_s": modelled, "error": modelled / measured - 1}


def check(measured: dict[str, Any]) -> dict[str, Any]:
    """The report."""
    if measured["rate"] != "1gbit":
        raise UserError(f"{MEASURED} is of a link of {measured['rate']}: this check is for 1gbit")
    report = {
        "benchmark": "model-check",
        "command": "python -m benchmarks.model_check",
        "notes": [],
        "environment": environment(),
        "network": {"alpha_s": NETWORK.alpha, "bytes_per_s": NETWORK.rate, "source": NETWORK.source},
        "sums": sums(measured),
        "training": training(measured),
    }
    errors = [abs(line["error"]) for line in (*report["sums"], *report["training"])]
    report["notes"].append(
        f"median error {100 * median(errors):.0f} %, largest {100 * max(errors):.0f} %; measured by "
        f"`{measured['command']}` at commit {measured['environment']['commit']}"
    )
    return report


def sheets(report: dict[str, Any]) -> list[Sheet]:
    first = Sheet(
        "all-reduce over two hosts with 2 ranks each and 1 Gbit/s between them, measured and modelled",
        ["placement", "route", "size|B", "measured|ms", "modelled|ms", "error|%"],
        words=("placement", "route"),
    )
    for line in report["sums"]:
        first.rows.append([line["placement"], line["route"], f"{line['size_bytes']:,}", *cells(line)])
    second = Sheet(
        "a step of training over two hosts with 1 rank each, measured and modelled",
        ["messages", "measured|ms", "modelled|ms", "error|%"],
        words=("messages",),
    )
    second.rows = [[line["messages"], *cells(line)] for line in report["training"]]
    return [first, second]


def cells(line: dict[str, Any]) -> list[str]:
    times = [f"{1e3 * line[name]:,.1f}" for name in ("measured_s", "modelled_s")]
    return [*times, f"{100 * line['error']:+.0f}"]


def main(arguments: Sequence[str]) -> int:
    """Print and write the comparison; the exit code."""
    out = Path(arguments[0]) if arguments else OUT
    try:
        report = check(json.loads(MEASURED.read_text(encoding="utf-8")))
        publish(report, sheets(report), out, full=False)
    except UserError as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
