"""How fast are sums over ranks: our routes, the MPI library's own, and gloo, from 4 kB to 128 MB?

    mpirun -n 2 python -m benchmarks.collectives [--sizes 4K,1M] [--rounds 31] [--routes ring,mpi] [--out FILE]

What the columns mean, and the rules of timing, are in benchmarks/README.md.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.bandwidth import ALL_REDUCE, REDUCE_SCATTER, memory_limit
from benchmarks.collective_tables import Sheet, sheets
from benchmarks.contestants import TYPE, connect_gloo
from benchmarks.environment import ROOT, environment
from benchmarks.turns import Turns
from mpidp import machine
from mpidp.collectives import COLLECTIVES
from mpidp.collectives.calibration import measure
from mpidp.comm import Communicator
from mpidp.comm.world import guarded, launcher_rank, spin_if_alone, together
from mpidp.errors import UserError

SIZES = "4K,16K,64K,256K,1M,4M,16M,64M,128M"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
OUT = ROOT / "docs" / "results" / "collectives.json"
WIDEST = 150  # characters of a table, beyond which its cells wrap


def body(comm: Communicator, arguments: Sequence[str]) -> int:
    options = together(comm, lambda: parse(arguments))
    together(comm, lambda: at_least_two(comm))
    spin_if_alone(comm, machine.usable_cores())
    notes = remarks(comm, options)
    gloo = connect_gloo(comm)
    if gloo is None:
        notes.append("gloo is left out: PyTorch is not installed (pip install 'mpidp[bench]')")
    report: dict[str, Any] = {
        "benchmark": "collectives",
        "command": f"mpirun -n {comm.size} python -m benchmarks.collectives {' '.join(arguments)}".rstrip(),
        "ranks": comm.size,
        "rounds": options.rounds,
        "notes": notes,
        "environment": environment() if comm.rank == 0 else {},
        "results": [],
        "ratios": [],
        "memory": [],
    }
    for size in options.sizes:
        turns = Turns(comm, size, options.routes, gloo)
        results, memory = turns.run(options.rounds)
        auto = measure(comm, TYPE, [turns.size]).fastest(turns.size)
        report["results"] += results
        report["memory"].append(memory)
        report["ratios"] += [ratio(o, results, memory, auto, comm.size) for o in (ALL_REDUCE, REDUCE_SCATTER)]
    if gloo is not None:
        gloo.destroy_process_group()
    together(comm, lambda: publish(report, sheets(report), options.out) if comm.rank == 0 else None)
    return 0


def at_least_two(comm: Communicator) -> None:
    if comm.size < 2:
        raise UserError("one rank has nothing to add up: mpirun -n 2 python -m benchmarks.collectives")


def remarks(comm: Communicator, options: argparse.Namespace) -> list[str]:
    """What a reader of the figures must know; routes that cannot be taken here leave `options.routes`."""
    notes = []
    for name in list(options.routes):
        why, same = COLLECTIVES[name].unable(comm, TYPE), COLLECTIVES[name].alike(comm)
        why = why or (same and f"where these ranks are it is {same}")
        if why:
            options.routes.remove(name)
            notes.append(f"{name} is left out: {why}")
    cores = len({core for theirs in comm.allgather(machine.cores()) for core in theirs})
    if comm.size > cores and comm.on_one_host():
        notes.append(
            f"{comm.size} ranks on {cores} cores take turns: these times say little about the routes"
        )
    return notes


def ratio(
    operation: str, results: list[dict[str, Any]], memory: dict[str, Any], auto: str, ranks: int
) -> dict[str, Any]:
    """At one size: how many times as fast as the better of library and gloo is each of ours, and could memory be.

    A ratio is the median of the rounds' quotients: what else the machine did in a round, it did to both.
    """
    entries = {entry["route"]: entry for entry in results if entry["operation"] == operation}
    rounds = {name: entry["rounds_us"] for name, entry in entries.items()}
    by_time = sorted(entries, key=lambda name: entries[name]["time_us"]["median"])
    rival = next(name for name in by_time if not entries[name]["ours"])
    bandwidth = max(memory["copy_all_ranks"], memory["add_all_ranks"])
    limit_us = memory_limit(operation, memory["size_bytes"], ranks, bandwidth) * 1e6
    found = {
        "operation": operation,
        "size_bytes": memory["size_bytes"],
        "best_of_library_and_gloo": rival,
        "ours": {
            name: quotient(rounds[rival], rounds[name]) for name, entry in entries.items() if entry["ours"]
        },
        "memory_limit": entries[rival]["time_us"]["median"] / limit_us,
    }
    if operation == ALL_REDUCE and auto in rounds:
        found["auto"] = {"route": auto, "of_the_best": quotient(rounds[by_time[0]], rounds[auto])}
    return found


def quotient(these: Sequence[float], those: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def publish(report: dict[str, Any], made: Sequence[Sheet], path: Path, full: bool = True) -> None:
    """Print the tables, and write the file, with the tables in a .md beside it. Raises UserError where it cannot.

    full: the JSON is indented, to be read; else it is short, and the notes stand below the tables in the .md too.
    """
    columns = machine.terminal_columns()
    console = Console(force_terminal=columns is not None, width=max(columns or 0, 118), highlight=False)
    tables = [sheet.table() for sheet in made]
    room = console.options.update(width=WIDEST)
    console.width = max([console.width, *(console.measure(table, options=room).maximum for table in tables)])
    for sheet, table in zip(made, tables, strict=True):
        console.print(sheet.title, table, sep="\n")
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        indent = 1 if full else None
        path.write_text(json.dumps(report, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
        notes = [] if full else [f"- {note}\n" for note in report["notes"]]
        texts = [*(sheet.markdown() for sheet in made), *notes]
        path.with_suffix(".md").write_text("".join(texts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}") from None
    console.print(f"written: {os.path.relpath(path)}, and its tables as .md", markup=False, soft_wrap=True)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors, made by all ranks together, and whose help is shown once."""

    def error(self, message: str) -> Any:
        raise UserError(message)

    def print_help(self, file: Any = None) -> None:
        if launcher_rank() == 0:
            super().print_help(file)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.collectives", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help="bytes of a rank's vector; K, M, G are powers of 1024")
    parser.add_argument("--rounds", type=int, default=31, help="repeats, in each of which all take turns")
    parser.add_argument(
        "--routes", default=",".join(COLLECTIVES), help="ours; the yardsticks always take part"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    options.sizes = [bytes_of(text) for text in options.sizes.split(",")]
    options.routes = options.routes.split(",")
    unknown = [name for name in options.routes if name not in COLLECTIVES]
    if unknown:
        raise UserError(f"--routes: {', '.join(unknown)} unknown; there are {', '.join(COLLECTIVES)}")
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: must be at least 1")
    return options


def bytes_of(text: str) -> int:
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if not number.isdecimal() or int(number) == 0 or unit not in UNITS:
        raise UserError(f"--sizes: {text!r} is no number of bytes; write for example 4096, 64K or 1M")
    return int(number) * UNITS[unit]


if __name__ == "__main__":
    sys.exit(guarded(lambda comm: body(comm, sys.argv[1:])))
