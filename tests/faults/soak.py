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
from tests.faults.harness import BOUND, OUTSIDE, RANKS, STEPS, SYNCS, Outcome, survive, trials, undisturbed
from tests.faults.victim import PHASES

ALL = ("restart", "shrink", "abort")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=140, help="how many runs in which a rank is killed")
    parser.add_argument("--policies", default="restart,shrink", help=", ".join(ALL))
    parser.add_argument("--only", default="", help="trials whose name has this word in it")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--out", type=Path, help="the table")
    given = parser.parse_args(arguments)
    began, outcomes, known = time.monotonic(), [], {}
    rounds = (trials(tuple(given.policies.split(",")), seed) for seed in itertools.count(given.seed))
    wanted = (trial for trial in itertools.chain.from_iterable(rounds) if given.only in str(trial))
    with tempfile.TemporaryDirectory(prefix="mpidp-soak-") as text:
        for i, trial in enumerate(itertools.islice(wanted, given.kills)):
            folder = Path(text) / f"{i:04d}"
            folder.mkdir()
            if trial.sync not in known:
                known[trial.sync] = undisturbed(trial.sync, folder / "undisturbed")
            outcome = survive(trial, folder, known[trial.sync])
            outcomes.append(outcome)
            print(
                f"{i + 1:4d} {outcome.seconds:5.1f} s  {trial}  {'; '.join(outcome.problems) or 'ok'}",
                flush=True,
            )
            if outcome.problems:
                print(outcome.text, flush=True)
    seconds = time.monotonic() - began
    if given.out:
        given.out.write_text(page(outcomes, seconds, arguments))
    bad = sum(bool(outcome.problems) for outcome in outcomes)
    print(f"{len(outcomes)} kills in {seconds:.0f} s, {bad} of them not as promised")
    return 1 if bad else 0


def page(outcomes: list[Outcome], seconds: float, arguments: list[str]) -> str:
    """The table: of each strategy and policy, how many kills it survived of how many, by phase."""
    found = library()
    lines = [
        "# Kills",
        "",
        f"`{shlex.join(['python', '-m', 'tests.faults.soak', *arguments])}`: {len(outcomes)} runs of {STEPS} steps on "
        f"{RANKS} ranks, each with one rank killed by SIGKILL, in {seconds:.0f} s. {found.vendor} {found.version}, "
        f"Python {platform.python_version()}, {platform.machine()}, {len(cores())} cores.",
        "",
        "A run counts as survived where it finished with exit code 0 (under abort: ended with the cause named), left",
        "no process and (but under abort, where MPICH does) nothing in /dev/shm, and its result has the bits of an",
        "uninterrupted run (restart) or, under shrink and where a strategy's bits depend on who is late, a validation",
        f"loss that is no further from that run's than {BOUND:.0%} of what training gained. `{OUTSIDE}`: at a random",
        "moment, from outside.",
        "",
        "| `--sync` | `--on-failure` | " + " | ".join((*PHASES, OUTSIDE)) + " | longest (s) |",
        "|---" * (len(PHASES) + 4) + "|",
    ]
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        cells[outcome.trial.sync, outcome.trial.policy][outcome.trial.phase].append(outcome)
    for sync in SYNCS:
        for policy in ALL:
            by_phase = cells.get((sync, policy))
            if by_phase:
                counts = [
                    f"{sum(not o.problems for o in by_phase[phase])}/{len(by_phase[phase])}"
                    for phase in (*PHASES, OUTSIDE)
                ]
                longest = max(o.seconds for all_of in by_phase.values() for o in all_of)
                lines.append(f"| {sync} | {policy} | {' | '.join(counts)} | {longest:.1f} |")
    bad = [o for o in outcomes if o.problems]
    lines += ["", *(f"- {o.trial}: {'; '.join(o.problems)}" for o in bad)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
