"""Training throughput of mpidp against PyTorch DDP over gloo: `python -m benchmarks.train_throughput`.

The same models, initial values, batches, dtype, optimizer settings and number of ranks, one BLAS and OpenMP
thread a rank. All sides are started first and compute the same losses, or nothing is measured. Then they take turns,
for about a second each, round after round, while the others sleep; batches lie ready on both sides. Gradients are not
clipped. Beside each side's run on all ranks, as many runs of one rank each, side by side, take a turn of their own:
what communication costs.
"""

import argparse
import importlib.util
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import cases, write_data, write_task
from benchmarks.contest import CHECKED, TOLERANCE, Plan, contest
from benchmarks.environment import environment
from benchmarks.groups import ROOT, SETTINGS, BenchmarkError
from benchmarks.results import HEADERS, markdown, rows, sgemm_peak, summarise
from benchmarks.sides import MPIDP, Setting
from mpidp.errors import UserError

THREADS = {"threads": {k: v for k, v in SETTINGS.items() if k.endswith("THREADS")}, "blas_threads": 1}
"""Those of the measured processes, in the place of this one's."""

OUT = ROOT / "docs" / "results" / "train-throughput.json"


def build_parser() -> argparse.ArgumentParser:
    every = ",".join(cases())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_throughput",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", default=every, metavar="NAME,...", help=f"which models [{every}]")
    parser.add_argument("--ranks", type=at_least(2), default=2, metavar="N", help="processes of a run [2]")
    parser.add_argument(
        "--rounds", type=at_least(1), default=15, metavar="N", help="turns of every side [15]"
    )
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of a turn, about [1]")
    parser.add_argument(
        "--startups", type=at_least(1), default=3, metavar="N", help="launches for start-up time [3]"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile as well, where it works (and PyTorch's single runs not, for memory)",
    )
    parser.add_argument(
        "--mpidp",
        default="--sync sharded --collective shared",
        metavar="OPTIONS",
        help='of its runs [--sync sharded --collective shared]; e.g. --mpidp "--blas numpy"',
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(TOLERANCE),
        default="float32",
        help="bfloat16: mpidp's --dtype, and PyTorch in autocast [float32]",
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="that a side may take to answer [600]"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="FILE",
        help=f"JSON; a table beside it [{OUT.relative_to(ROOT)}]",
    )
    return parser


def at_least(least: int):
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: at least {least}")
        return int(text)

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    known = cases()
    chosen = options.cases.split(",")
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"--cases {','.join(unknown)}: known are {','.join(known)}")
    if importlib.util.find_spec("torch") is None:
        print("error: PyTorch is not installed here: pip install 'mpidp[mpich,bench]'", file=sys.stderr)
        return 2
    console = Console(stderr=True, highlight=False)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.train_throughput", *(arguments or sys.argv[1:])]),
        "environment": environment()
        | {"threads": {k: v for k, v in SETTINGS.items() if k.endswith("THREADS")}},
        "ranks": options.ranks,
        "mpidp_options": options.mpidp,
        "dtype": options.dtype,
        "losses_compared": {"steps": CHECKED, "relative_tolerance": TOLERANCE[options.dtype]},
        "cases": {},
    }
    plan = Plan(options.rounds, options.seconds, options.startups, options.compile)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="mpidp-bench-") as folder:
            setting = Setting(
                options.ranks, Path(folder), shlex.split(options.mpidp), options.dtype, options.timeout
            )
            try:
                write_data(known[name], options.ranks, setting.folder)
                write_task(known[name], options.ranks, setting.folder, options.dtype)
                record["cases"][name] = contest(
                    known[name], setting, plan, lambda text: console.print(text, markup=False, soft_wrap=True)
                )
            except (BenchmarkError, UserError) as error:
                print(f"error: {name}: {error}", file=sys.stderr)
                return 1
        write(record, options.out)
    show(record)
    return 0


def write(record: dict[str, Any], out: Path) -> None:
    """The record with its summary as JSON, and the table in a .md beside it: after each case, so that none is lost."""
    record["sgemm_peak_gflops"] = sgemm_peak(record["cases"])
    record["summary"] = summarise(record["cases"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(rows(record["summary"])), encoding="utf-8")


def show(record: dict[str, Any]) -> None:
    e = record["environment"]
    autocast = " in bfloat16 autocast" if record["dtype"] == "bfloat16" else ""
    products = {case["sides"][MPIDP]["products"] for case in record["cases"].values()}
    table = Table(
        title=f"Training on {record['ranks']} ranks with one thread each, {record['dtype']}; "
        f"mpidp: {record['mpidp_options'] or 'its defaults'}; PyTorch: DDP over gloo{autocast}",
        caption=f"{e['cpu']}, {' and '.join(e['bfloat16']) or 'no bfloat16'}; mpidp: {' and '.join(products)} "
        f"(NumPy has {e['blas']}); PyTorch {e['torch']}; {e['mpi']}; "
        f"sgemm of all ranks at once {record['sgemm_peak_gflops']:.0f} GFLOP/s; commit {e['commit']}",
    )
    for i, header in enumerate(HEADERS):
        table.add_column(header, justify="left" if i < 2 else "right", no_wrap=i < 2)
    before = ""
    for row in rows(record["summary"]):
        if before not in ("", row[0]):
            table.add_section()
        table.add_row("" if row[0] == before else row[0], *row[1:])
        before = row[0]
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt  # on SIGTERM too, processes and files are tidied away


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: cases that were finished are in the results", file=sys.stderr)
        sys.exit(130)
