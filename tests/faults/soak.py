"""Kills without end: `python -m tests.faults.soak [--kills N] [--policies restart,shrink] [--only WORD] [--out FILE]`.

Every strategy, phase and policy in turn, again with other seeds until there were so many; exit code 1 where one run did
not end as promised. The table goes into FILE (`make soak`: docs/results/faults.md).
"""

import argparse
import itertools
import platform
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from mpidp.comm.probe import library
from mpidp.machine import cores
from tests.faults.expected import ORDERS
from tests.faults.harness import (
    EARLY,
    OUTSIDE,
    PROMISES,
    RANKS,
    STEPS,
    SYNCS,
    VARYING,
    Outcome,
    References,
    survive,
    trials,
)  # fmt: skip
from tests.faults.victim import PHASES

DEFAULT = "restart,shrink,supervised"
COLUMNS = (*PHASES, OUTSIDE, EARLY)
EXPLANATION = f"""A run counts as survived where it finished with exit code 0, left no process and nothing in /dev/shm,
logged every step once, and ended with the *bits* that it has to have. `restart` (`mpidp.launch`): those of an
uninterrupted run. `shrink` (`--on-failure shrink` under a plain mpirun): those of the same steps made on threads of one
process, where the ranks but the lost one go on from the state after the step that the summary names
(`tests/faults/expected.py`). `supervised`: `mpidp.launch` with `--on-failure shrink`: one or the other. Of
{", ".join(VARYING)}, whose bits depend on who is late: each update is there once, and the validation loss lies in the
range of {ORDERS} such runs on threads, in each of which other ranks are late, taken once more on either side.

`{OUTSIDE}`: a process is killed from outside at a random moment; under `shrink` a rank while it trains, under the other
two any process of a rank, also its guard, and in half of the runs before training begins. `{EARLY}`: any process,
before training begins, under a plain mpirun: the run ends in time, with the cause named, and leaves no process."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=160, help="how many")
    parser.add_argument("--policies", default=DEFAULT, help=", ".join(PROMISES))
    parser.add_argument("--only", default="", help="trials whose name has this word in it")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--out", type=Path, help="the table")
    given = parser.parse_args(arguments)
    began, outcomes, references = time.monotonic(), [], References()
    rounds = (trials(tuple(given.policies.split(",")), seed) for seed in itertools.count(given.seed))
    wanted = (trial for trial in itertools.chain.from_iterable(rounds) if given.only in str(trial))
    with tempfile.TemporaryDirectory(prefix="mpidp-soak-") as text:
        for i, trial in enumerate(wanted):
            folder = Path(text) / f"{i:04d}"
            folder.mkdir()
            outcome = survive(trial, folder, references)
            outcomes.append(outcome)
            told = "; ".join(outcome.problems) or (
                "ok" if outcome.killed else "ok, but ended before the kill"
            )
            print(f"{i + 1:4d} {outcome.seconds:5.1f} s  {trial}  {told}", flush=True)
            if outcome.problems:
                print(outcome.text, flush=True)
            if sum(each.killed for each in outcomes) == given.kills:
                break
    seconds = time.monotonic() - began
    if given.out:
        given.out.write_text(page(outcomes, seconds, arguments))
    bad = sum(bool(outcome.problems) for outcome in outcomes)
    kills = sum(outcome.killed for outcome in outcomes)
    print(f"{len(outcomes)} runs, {kills} kills in {seconds:.0f} s, {bad} of them not as promised")
    return 1 if bad else 0


def page(outcomes: list[Outcome], seconds: float, arguments: list[str]) -> str:
    """The table: of each strategy and policy, how many kills it survived of how many, by phase."""
    found, kills = library(), [outcome for outcome in outcomes if outcome.killed]
    command = shlex.join(["python", "-m", "tests.faults.soak", *arguments])
    lines = [
        "# Kills",
        "",
        f"`{command}`: {len(kills)} kills by SIGKILL, each of one process of a run of {STEPS} "
        f"steps on {RANKS} ranks, in {seconds:.0f} s. {found.vendor} {found.version}, "
        f"Python {platform.python_version()}, {platform.machine()}, {len(cores())} cores.",
        "",
        EXPLANATION,
        "",
        "| `--sync` | policy | " + " | ".join(COLUMNS) + " | longest (s) |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in kills:
        cells[outcome.trial.sync, outcome.trial.policy][outcome.trial.phase].append(outcome)
    for sync in SYNCS:
        for policy in PROMISES:
            by_phase = cells.get((sync, policy))
            if by_phase:
                counts = [good_of(by_phase[phase]) for phase in COLUMNS]
                longest = max(o.seconds for all_of in by_phase.values() for o in all_of)
                lines.append(f"| {sync} | {policy} | {' | '.join(counts)} | {longest:.1f} |")
    bad = [o for o in outcomes if o.problems]
    lines += ["", *(f"- {o.trial}: {'; '.join(o.problems)}" for o in bad)]
    return "\n".join(lines).rstrip() + "\n"


def good_of(outcomes: list[Outcome]) -> str:
    return f"{sum(not o.problems for o in outcomes)}/{len(outcomes)}" if outcomes else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
