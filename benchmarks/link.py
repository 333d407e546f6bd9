"""What a network costs: sums over two hosts by every route, and how much of training's messages backward hides.

    python -m benchmarks.link [--rate 1gbit] [--sizes 1M,4M,16M] [--rounds 9] [--case small] [--only sums] [--out FILE]

As root; the hosts are network namespaces on this machine (benchmarks/hosts.py). What is measured, and how, is in
benchmarks/README.md.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cases
from benchmarks.collective_tables import Sheet
from benchmarks.collectives import Parser, bytes_of, publish, quotient
from benchmarks.environment import ROOT, environment
from benchmarks.groups import BenchmarkError
from benchmarks.hosts import Hosts, placement, two_hosts
from mpidp.collectives import COLLECTIVES
from mpidp.comm.world import say
from mpidp.errors import UserError

OUT = ROOT / "docs" / "results" / "link.json"
MEASURES = ("sums", "training")
PLACEMENTS = {"block": False, "cyclic": True}  # ranks 0, 1 | 2, 3; ranks 0, 2 | 1, 3
FLAT, HIERARCHICAL = "ring", "hierarchical"
OVERLAPPED, BLOCKING, SILENT = "overlapped", "blocking", "no messages"
LIMIT = 1800.0  # seconds for one launch


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; the exit code: 2 where this machine or the options do not allow it, 1 where it fails."""
    try:
        options = parse(arguments)
        report = measure(options, arguments)
        publish(report, sheets(report), options.out)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("error: interrupted; the two hosts are taken down")
        return 130
    return 0


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """The report, with two hosts up as long as it takes."""
    report: dict[str, Any] = {
        "benchmark": "link",
        "command": shlex.join(["python", "-m", "benchmarks.link", *arguments]),
        "rate": options.rate,
        "rounds": options.rounds,
        "notes": [],
        "environment": environment(),
        "sums": [],
        "training": None,
    }
    with two_hosts(options.rate) as hosts:
        if "sums" in options.only:
            for name, cyclic in PLACEMENTS.items():
                report["sums"].append(measure_sums(hosts, options, name, cyclic))
            unable = report["sums"][0]["unable"]
            report["notes"] += [f"{name} is left out: {why}" for name, why in unable.items()]
        if "training" in options.only:
            report["training"] = measure_training(hosts, options)
    return report


def ask(hosts: Hosts, ranks: Sequence[str], task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Have these ranks do the task (see `link_worker.py`); their answer."""
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    hosts.run(ranks, ["-m", "benchmarks.link_worker", str(path)], LIMIT)
    return json.loads(path.with_suffix(".answer").read_text())


def measure_sums(hosts: Hosts, options: argparse.Namespace, name: str, cyclic: bool) -> dict[str, Any]:
    task = {"do": "sums", "sizes": options.sizes, "routes": options.routes, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="mpidp-link-") as folder:
        found = ask(hosts, placement((2, 2), cyclic), task, Path(folder)) | {"placement": name}
    for line in found["sums"]:
        flat = [
            other
            for other in found["sums"]
            if (other["size_bytes"], other["route"]) == (line["size_bytes"], FLAT)
        ]
        line["times_flat_ring"] = quotient(flat[0]["rounds_s"], line["rounds_s"]) if flat else None
    return found


def measure_training(hosts: Hosts, options: argparse.Namespace) -> dict[str, Any]:
    """One model, trained with messages during backward, after it, and without any: hidden = (b - o) / (b - n)."""
    case = cases.cases()[options.case]
    with tempfile.TemporaryDirectory(prefix="mpidp-link-") as text:
        folder = Path(text)
        cases.write_data(case, 2, folder)
        common = [*cases.arguments(case, 2, folder), *shlex.split(options.mpidp)]
        reduce = ["--sync", "allreduce", "--collective", FLAT]
        ways = {
            OVERLAPPED: [*common, *reduce, *options.overlap],
            BLOCKING: [*common, *reduce, "--bucket-mib", "0"],
            SILENT: [*common, "--sync", "none"],
        }
        task = {"do": "training", "ways": ways, "rounds": options.rounds, "steps": options.steps}
        found = ask(hosts, placement((1, 1)), task, folder)
    if found["training"][OVERLAPPED]["losses"] != found["training"][BLOCKING]["losses"]:
        raise BenchmarkError(
            "the losses with messages during backward differ from those with messages after it"
        )
    seconds = [found["training"][way]["rounds_s"] for way in (OVERLAPPED, BLOCKING, SILENT)]
    hidden = [(b - o) / (b - n) for o, b, n in zip(*seconds, strict=True)]
    return found | {"case": case.name, "about": case.about, "hidden": median(hidden), "rounds_hidden": hidden}


def sheets(report: dict[str, Any]) -> list[Sheet]:
    made = []
    for found in report["sums"]:
        made.append(
            Sheet(
                f"all-reduce over two hosts with 2 ranks each, {found['placement']} placement, "
                f"{report['rate']} each way, medians of {report['rounds']} rounds",
                ["size|B", "route", "time|ms", "min|ms", "max|ms", "on the link|B", "speed ÷ flat ring's|×"],
            )
        )
        for line in found["sums"]:
            times = [1e3 * s for s in line["rounds_s"]]
            ratio = line["times_flat_ring"]
            made[-1].rows.append(
                [
                    f"{line['size_bytes']:,}",
                    line["route"],
                    *(f"{time:,.1f}" for time in (median(times), min(times), max(times))),
                    f"{line['link_bytes']:,.0f}",
                    f"{ratio:.2f}" if ratio else "",
                ]
            )
    if report["training"]:
        made.append(training_sheet(report))
    return made


def training_sheet(report: dict[str, Any]) -> Sheet:
    found = report["training"]
    sheet = Sheet(
        f"training {found['about']} on two hosts with 1 rank each, {report['rate']} each way, medians of "
        f"{report['rounds']} rounds; hidden behind backward: {100 * found['hidden']:.0f} % of the messages' time",
        ["messages", "step|ms", "min|ms", "max|ms", "on the link|B a step"],
    )
    for way, line in found["training"].items():
        times = [1e3 * s for s in line["rounds_s"]]
        cells = [f"{time:,.1f}" for time in (median(times), min(times), max(times))]
        sheet.rows.append([way, *cells, f"{line['link_bytes']:,.0f}"])
    return sheet


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.link", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="1gbit", help="of the link each way, as tc writes it")
    parser.add_argument(
        "--sizes", default="1M,4M,16M", help="bytes of a rank's vector; K, M, G are powers of 1024"
    )
    parser.add_argument("--rounds", type=int, default=9, help="repeats, in each of which all take turns")
    parser.add_argument("--routes", default=",".join(COLLECTIVES), help="of all-reduce")
    parser.add_argument("--case", default="small", help="the model: a case of train_throughput.py")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round")
    parser.add_argument(
        "--bucket-mib", help="as of mpidp.train, for the overlapped side (default: mpidp's own)"
    )
    parser.add_argument(
        "--mpidp", default="", metavar="OPTIONS", help="more options of mpidp.train, for all sides"
    )
    parser.add_argument("--only", default=",".join(MEASURES), help="sums, training")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    options.sizes = [bytes_of(text) for text in options.sizes.split(",")]
    options.overlap = ["--bucket-mib", options.bucket_mib] if options.bucket_mib else []
    for name, able in (("routes", COLLECTIVES), ("only", MEASURES)):
        values = getattr(options, name).split(",")
        setattr(options, name, values)
        if unknown := [value for value in values if value not in able]:
            raise UserError(f"--{name}: {', '.join(unknown)} unknown; there are {', '.join(able)}")
    if options.case not in cases.cases():
        raise UserError(f"--case {options.case} unknown; there are {', '.join(cases.cases())}")
    for name in ("rounds", "steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
