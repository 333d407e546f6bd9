"""What the papers claim, at our scale: a table with seeds, spread and verdicts.

    python -m benchmarks.papers [--only diloco,powersgd] [--seeds N] [--quick] [--out FILE]

Each experiment is a launch of mpirun with ranks of its own. What is measured, and how it is judged, is in
benchmarks/README.md and `claims.py`.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.collective_tables import Sheet
from benchmarks.collectives import Parser, publish
from benchmarks.environment import ROOT, environment
from benchmarks.groups import SETTINGS, BenchmarkError, mpirun
from benchmarks.papers.claims import EXPERIMENTS
from benchmarks.papers.experiment import Experiment, mean, spread
from mpidp.comm.world import say
from mpidp.errors import UserError

OUT = ROOT / "docs" / "results" / "papers.json"
LIMIT = 900.0  # seconds for one experiment


def main(arguments: Sequence[str]) -> int:
    """Run and publish; the exit code: 2 for a mistake, 1 where an experiment fails."""
    try:
        options = parse(arguments)
        report: dict[str, Any] = {
            "benchmark": "papers",
            "command": shlex.join(["python", "-m", "benchmarks.papers", *arguments]),
            "notes": [],
            "environment": environment(),
            "experiments": [measured(EXPERIMENTS[name], options) for name in options.only],
        }
        report["notes"] = notes(report)
        publish(report, sheets(report), options.out, full=False)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("error: interrupted")
        return 130
    return 0


def measured(experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    """The experiment as it is written down: its claim, the results of every side and seed, the verdict."""
    print(f"{experiment.name} ...", flush=True)
    seeds = range(options.seeds or (1 if options.quick else experiment.seeds))
    quick = experiment.quick if options.quick else ""
    with tempfile.TemporaryDirectory(prefix="mpidp-papers-") as text:
        folder = Path(text)
        data = experiment.data(folder) if experiment.data else []
        runs = [
            [*shlex.split(f"{experiment.common} {side} {quick} --seed {seed}"), *data]
            for side in experiment.sides.values()
            for seed in seeds
        ]
        answers = iter(asked(runs, experiment, folder))
    results: dict[str, dict[str, list[float]]] = {}
    refused: dict[str, str] = {}
    for side in experiment.sides:
        found = [next(answers) for _ in seeds]
        if reason := found[0].get("refused"):
            refused[side] = reason
        else:
            results[side] = {name: [one[name] for one in found] for name in found[0]}
    verdict = None if refused else experiment.judge(results)
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "ranks": experiment.ranks,
        "common": f"{experiment.common} {quick}".strip(),
        "sides": dict(experiment.sides),
        "seeds": len(seeds),
        "quick": options.quick,
        "shown": list(experiment.shown),
        "results": results,
        "refused": refused,
        "here": verdict.here if verdict else "open",
        "verdict": verdict.text if verdict else "cannot be judged: mpidp refuses a side",
        "why": experiment.why,
    }


def asked(runs: Sequence[Sequence[str]], experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """What the ranks answer (see `worker.py`). Raises BenchmarkError where the launch fails."""
    path = folder / "task.json"
    path.write_text(json.dumps({"runs": runs, "since": experiment.since}))
    command = [*mpirun(experiment.ranks), "-m", "benchmarks.papers.worker", str(path)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | SETTINGS | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{shlex.join(command)} ended with code {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{shlex.join(command)} was not done after {LIMIT:g} s") from None
    return json.loads(path.with_suffix(".answer").read_text())


def sheets(report: dict[str, Any]) -> list[Sheet]:
    """Claims and verdicts first, then a table of figures for each."""
    columns = ["experiment", "claim", "source", "here", "figures", "why, and what to know"]
    first = Sheet(
        "what papers claim, and what came out here",
        columns,
        words=columns,
    )
    made = [first]
    for found in report["experiments"]:
        row = [found[key] for key in ("name", "claim", "source", "here", "verdict", "why")]
        first.rows.append(row)
        made.append(figures(found))
    return made


def figures(found: Mapping[str, Any]) -> Sheet:
    shown = found["shown"]
    seeds = f"{found['seeds']} seed{'s' * (found['seeds'] > 1)}"
    sheet = Sheet(
        f"{found['name']}: {found['ranks']} ranks, mean ± standard deviation of {seeds}",
        ["run", "options", *(f"{name}|{unit}" if unit else name for name, unit, _ in shown)],
        words=("run", "options"),
    )
    for side, options in found["sides"].items():
        if side in found["refused"]:
            sheet.rows.append([side, found["refused"][side], *[""] * len(shown)])
            continue
        cells = []
        for name, _, digits in shown:
            values = found["results"][side][name]
            cells.append(f"{mean(values):,.{digits}f}")
            if spread(values):
                cells[-1] += f" ± {spread(values):.{digits}f}"
        sheet.rows.append([side, options, *cells])
    return sheet


def notes(report: dict[str, Any]) -> list[str]:
    said = [f"{found['name']}: all runs with {found['common']}" for found in report["experiments"]]
    if any(found["quick"] for found in report["experiments"]):
        said.append("--quick: far too few steps and seeds for any verdict")
    return said


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.papers", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(EXPERIMENTS), metavar="NAMES", help="which experiments")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds of every side (default: the experiment's)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps and one seed: whether it runs at all"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file; the tables go beside it as .md")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := [name for name in options.only if name not in EXPERIMENTS]:
        raise UserError(f"--only: {', '.join(unknown)} unknown; there are {', '.join(EXPERIMENTS)}")
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
