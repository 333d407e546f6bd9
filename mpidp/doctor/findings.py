"""A finding, and how findings are shown."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mpidp import machine

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass
class Finding:
    """What was looked at, how it is, what was found, and what to do about it."""

    topic: str
    status: str
    found: str
    mend: str = ""


def report(findings: Sequence[Finding], as_json: bool, ranks: int) -> int:
    """Print the findings; the exit code: 1 where there is a problem, else 0."""
    counts = Counter(finding.status for finding in findings)
    code = int(counts[PROBLEM] > 0)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        print(json.dumps({"sane": not code, "ranks": ranks, "findings": listed}), flush=True)
        return code
    show(findings)
    tally = ", ".join(f"{counts[s]} {s}{'s' * (counts[s] != 1)}" for s in (PROBLEM, WARNING))
    print(f"{'Not sane' if code else 'Sane'}: {tally}.", flush=True)
    return code


def show(findings: Sequence[Finding]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # a doctor must be able to say that rich is missing
        for one in findings:
            print(f"{one.status:8} {one.topic}: {one.found}" + f"\n         → {one.mend}" * bool(one.mend))
        return
    columns = machine.terminal_columns()
    console = Console(width=columns or 110, force_terminal=columns is not None, no_color=columns is None)
    table = Table(title="mpidp doctor", title_justify="left")
    for heading in ("", "looked at", "found"):
        table.add_column(heading, overflow="fold")
    colours = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}
    for one in findings:
        text = Text(one.found)
        if one.mend:
            text.append(f"\n→ {one.mend}", style=colours[one.status])
        table.add_row(Text(one.status, style=colours[one.status]), one.topic, text)
    console.print(table)
