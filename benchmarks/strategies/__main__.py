"""Every strategy, route and encoding that you select, on one model and data set, in one launch.

    mpirun -n 4 python -m benchmarks.strategies                                       # an instructive set
    mpirun -n 4 python -m benchmarks.strategies --runs "allreduce; averaging --period 8" -- --model mlp --data digits
    mpirun -n 4 python -m benchmarks.strategies --grid "sync=allreduce,sharded collective=ring,tree" -- --steps 100

What is behind `--` are options of mpidp.train for all runs. Tables, curves and the rules are in benchmarks/README.md.
"""

import argparse
import contextlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.collectives import Parser, publish
from benchmarks.environment import ROOT, environment
from benchmarks.networks import NETWORKS
from benchmarks.replay import modelled
from benchmarks.strategies import page, plots, runs
from benchmarks.strategies.record import described, record
from benchmarks.strategies.tables import remarks, sheets
from benchmarks.watched import Outcome, run
from mpidp import machine
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError, guarded, together
from mpidp.errors import RunError, UserError

OUT = ROOT / "docs" / "results" / "strategies.json"


def body(comm: Communicator, given: Sequence[str]) -> int:
    options = together(comm, lambda: parse(given))
    cores = len({core for theirs in comm.allgather(machine.usable_cores()) for core in theirs})
    report: dict[str, Any] = {
        "benchmark": "strategies",
        "command": shlex.join(
            ["mpirun", "-n", str(comm.size), "python", "-m", "benchmarks.strategies", *given]
        ),
        "common": shlex.join(options.common),
        "ranks": comm.size,
        "cores": cores if comm.on_one_host() else None,
        "networks": described([NETWORKS[name] for name in options.networks]),
        "environment": environment() if comm.rank == 0 else {},
        "runs": [],
        "refused": [],
    }
    outcomes = trained(comm, options, report)
    if outcomes:
        report["about"] = about(next(iter(outcomes.values())), comm.size)
    for name, outcome in outcomes.items():
        a_sample = gradient_time(outcome, outcomes.values())
        found = on_networks(comm, outcome, a_sample, options)
        report["runs"].append(record(name, outcome, a_sample, found))
    report["notes"] = remarks(report)
    if not plots.installed():
        report["notes"].append(
            "the curves are left out: matplotlib is not installed (pip install 'mpidp[bench]')"
        )
    together(comm, lambda: write(report, options.out) if comm.rank == 0 else None)
    return 0


def trained(comm: Communicator, options: argparse.Namespace, report: dict[str, Any]) -> dict[str, Outcome]:
    """What each of the runs left; those that mpidp refuses are put down in the report, with the reason."""
    outcomes: dict[str, Outcome] = {}
    with shared_folder(comm) as folder:
        for number, name in enumerate(options.runs, 1):
            begins = f"{number}/{len(options.runs)} {name}:"
            try:
                outcomes[name] = run(comm, runs.arguments(name, options.common), folder / str(number))
            except SharedError as error:
                report["refused"].append({"name": name, "reason": str(error)})
                tell(comm, f"{begins} refused: {error}")
                continue
            summary = outcomes[name].summary
            loss, seconds = summary["validation_loss"], summary["seconds_total"]
            tell(comm, f"{begins} validation loss {loss:.4f}, {seconds:.1f} s")
    return outcomes


def about(outcome: Outcome, ranks: int) -> str:
    summary = outcome.summary
    return (
        f"{summary['model']} with {summary['parameters']:,} parameters on {summary['data']}, {ranks} ranks, "
        f"{summary['steps']} steps of {summary['batch_size']} samples"
    )


def gradient_time(outcome: Outcome, all_of_them: Iterable[Outcome]) -> float:
    """Seconds that a sample's gradient takes, the least disturbed measurement of all runs with the same arithmetic."""

    def arithmetic(one: Outcome) -> tuple:
        run = one.config.run
        return one.config.model, run.model, run.data, run.dtype, run.blas, run.batch_size, run.micro_batch

    return min(one.gradient_seconds for one in all_of_them if arithmetic(one) == arithmetic(outcome))


def on_networks(
    comm: Communicator, outcome: Outcome, a_sample: float, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The run replayed on each of the networks, side by side on as many ranks as there are cores for."""
    steps = min(options.replay or outcome.summary["steps"], outcome.summary["steps"])
    at_work = min(comm.size, len(machine.usable_cores()))
    found: dict[str, dict[str, Any]] = {}
    for name in options.networks[comm.rank :: at_work] if comm.rank < at_work else ():
        try:
            one = modelled(outcome.config, outcome.summary, NETWORKS[name], a_sample, steps)
            found[name] = {"times": one.times, "traffic": one.traffic}
        except (UserError, RunError) as error:
            found[name] = {"reason": str(error)}
    everyone = comm.allgather(found)
    return {name: theirs[name] for name in options.networks for theirs in everyone if name in theirs}


@contextlib.contextmanager
def shared_folder(comm: Communicator) -> Iterator[Path]:
    """A temporary folder of rank 0's that all ranks know, gone at the end."""
    made = comm.bcast(tempfile.mkdtemp(prefix="mpidp-strategies-") if comm.rank == 0 else None)
    try:
        yield Path(made)
    finally:
        if comm.rank == 0:
            shutil.rmtree(made, ignore_errors=True)


def tell(comm: Communicator, text: str) -> None:
    if comm.rank == 0:
        print(text, flush=True)


def write(report: dict[str, Any], out: Path) -> None:
    """Print the tables; write FILE.json, FILE.md, FILE.png and FILE.html. Raises UserError where it cannot."""
    publish(report, sheets(report), out, full=False)
    if not report["runs"]:
        return
    drawn = plots.installed()
    try:
        if drawn:
            plots.draw_all(report, out.with_suffix(".png"))
        out.with_suffix(".html").write_text(page.made(report, drawn), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    print(f"and as {'.png and ' * drawn}.html")


def parse(given: Sequence[str]) -> argparse.Namespace:
    given = list(given)
    cut = given.index("--") if "--" in given else len(given)
    parser = Parser(prog="python -m benchmarks.strategies", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", metavar="LIST", help="options of each run, with ; between them: 'allreduce; none'"
    )
    parser.add_argument(
        "--grid", metavar="AXES", help="each with each: 'sync=allreduce,sharded collective=ring,tree'"
    )
    parser.add_argument(
        "--preset", metavar="NAME", help=f"a ready-made set of runs: {', '.join(runs.PRESETS)}"
    )
    parser.add_argument("--networks", default=",".join(NETWORKS), help="for the modelled time; '' for none")
    parser.add_argument(
        "--replay", type=int, metavar="N", help="model the first N steps alone, and extend them"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="the JSON file; .md, .png and .html go beside it"
    )
    options = parser.parse_args(given[:cut])
    chosen = [text for text in (options.runs, options.grid, options.preset) if text is not None]
    if len(chosen) > 1:
        raise UserError("--runs, --grid and --preset each say what is to run: give one")
    if options.runs is not None:
        options.runs = runs.listed(options.runs)
    elif options.grid is not None:
        options.runs = runs.grid(options.grid)
    else:
        name = options.preset or "default"
        if name not in runs.PRESETS:
            raise UserError(f"--preset {name}: there are {', '.join(runs.PRESETS)}")
        options.runs = list(runs.PRESETS[name])
    options.networks = [name for name in options.networks.split(",") if name]
    unknown = [name for name in options.networks if name not in NETWORKS]
    if unknown:
        raise UserError(f"--networks: {', '.join(unknown)} unknown; there are {', '.join(NETWORKS)}")
    if options.replay is not None and options.replay < 1:
        raise UserError(f"--replay {options.replay}: must be at least 1")
    options.common = runs.completed(given[cut + 1 :])
    return options


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: body(comm, sys.argv[1:])))
