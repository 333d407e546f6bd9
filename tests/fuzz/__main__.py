"""The long run: `python -m tests.fuzz [--inputs N] [--seed S] [--out FILE]`; exit code 1 where an input is a defect."""

import argparse
import faulthandler
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import mpidp
from tests.fuzz.campaign import KINDS, campaign
from tests.fuzz.oracle import MEMORY, SECONDS, limit_memory

SHARES = {
    "command lines": 0.25,
    "TOML files": 0.15,
    "checkpoints, truncated": 0.2,
    "checkpoints, damaged": 0.15,
    "data files": 0.23,
    "whole programs": 0.02,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind alone")
    parser.add_argument("--out", type=Path, help="where the table is to go")
    asked = parser.parse_args()
    faulthandler.enable()
    limit_memory()
    lines, defects = [], 0
    for kind, share in SHARES.items():
        if asked.only not in (None, kind):
            continue
        with tempfile.TemporaryDirectory(prefix="mpidp-fuzz.") as folder:
            # Beyond the limit of one input: where not even a signal gets through, the stack is shown and all ends.
            faulthandler.dump_traceback_later(3600, exit=True)
            tally, seconds = campaign(kind, max(1, round(share * asked.inputs)), asked.seed, Path(folder))
        counts = tally.counts
        line = row(kind, counts, seconds)
        print(line, flush=True)
        lines.append((counts, seconds, line))
        defects += counts["defect"]
        for defect in tally.defects[:20]:
            print(f"--- {defect}\n", file=sys.stderr, flush=True)
    total = sum((counts for counts, _, _ in lines), Counter())
    seconds = sum(s for _, s, _ in lines)
    last = row("all", total, seconds)
    print(last)
    if asked.out:
        asked.out.write_text(report(asked, [line for _, _, line in lines] + [last]), encoding="utf-8")
    return 1 if defects else 0


def row(kind: str, counts: Counter[str], seconds: float) -> str:
    """A line of the table."""
    numbers = (f"{counts[outcome]:,}" for outcome in ("refused", "accepted", "defect"))
    return f"| {kind} | {counts.total():,} | {' | '.join(numbers)} | {seconds:.0f} |"


def report(asked: argparse.Namespace, lines: list[str]) -> str:
    """The page of the last long run."""
    table = "\n".join(lines)
    machine = (
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    )
    return f"""# Fuzzing: the last long run

`python -m tests.fuzz --inputs {asked.inputs} --seed {asked.seed}` (`make fuzz`), mpidp {mpidp.__version__}, {machine},
{time.strftime("%Y-%m-%d", time.gmtime())}.

An input is a defect where it takes more than {SECONDS} s, asks for more than {MEMORY >> 30} GiB, shows a traceback or a
warning, ends in anything but one line, or is taken and gives other numbers than it may: a record of options that gives
other options, arrays of a checkpoint that are not those that were saved, samples of another shape, type or range
than the data's schema says, or that are not finite. Truncated checkpoints: at every byte of every file.

| inputs of | inputs | refused in one line | taken | defects | seconds |
|---|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    sys.exit(main())
