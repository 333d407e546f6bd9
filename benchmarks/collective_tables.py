"""The report of `benchmarks/collectives.py` as tables: for a terminal, and as Markdown for the documentation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.bandwidth import ALL_REDUCE, REDUCE_SCATTER
from benchmarks.turns import MEMORY

WORDS = ("type", "route", "better", "auto takes", "messages")  # columns that hold no numbers
LONG = 48  # characters: what is longer may wrap on a terminal


@dataclass
class Sheet:
    """A table; a column is "name" or "name|unit", and where a row's first cell changes a section ends."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    words: Sequence[str] = WORDS

    def markdown(self) -> str:
        headers = [column.replace("|", " (") + ")" * ("|" in column) for column in self.columns]
        align = ["---" if column in self.words else "---:" for column in self.columns]
        lines = "".join(f"| {' | '.join(row)} |\n" for row in [headers, align, *self.rows])
        return f"{self.title[0].upper()}{self.title[1:]}:\n\n{lines}\n"

    def table(self) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(self.columns):
            name, _, unit = column.partition("|")
            header = f"{name}\n({unit})" if unit else name
            short = all(len(row[i]) <= LONG for row in self.rows)
            made.add_column(header, justify="left" if name in self.words else "right", no_wrap=short)
        sections = len({row[0] for row in self.rows}) < len(self.rows)
        for row, after in zip(self.rows, [*self.rows[1:], None], strict=True):
            made.add_row(*row, end_section=sections and after is not None and after[0] != row[0])
        return made


def sheets(report: dict[str, Any]) -> list[Sheet]:
    found = []
    for operation in (ALL_REDUCE, REDUCE_SCATTER):
        found += [results(report, operation), ratios(report, operation)]
    return [*found, memory(report)]


def results(report: dict[str, Any], operation: str) -> Sheet:
    sheet = Sheet(
        f"{operation}, {report['ranks']} ranks, medians of {report['rounds']} rounds, each the slowest rank's",
        "size|B count type route time|µs p10|µs p90|µs algbw|GB/s busbw|GB/s error".split(),
    )
    for entry in report["results"]:
        if entry["operation"] == operation:
            sheet.rows.append(
                [
                    f"{entry['size_bytes']:,}",
                    f"{entry['count']:,}",
                    entry["type"],
                    entry["route"],
                    *(f"{entry['time_us'][quantile]:,.1f}" for quantile in ("median", "p10", "p90")),
                    f"{entry['algbw_gb_per_s']:.2f}",
                    f"{entry['busbw_gb_per_s']:.2f}",
                    f"{entry['error']:.1e}",
                ]
            )
    return sheet


def ratios(report: dict[str, Any], operation: str) -> Sheet:
    lines = [line for line in report["ratios"] if line["operation"] == operation]
    auto = ["auto takes", "auto|× best of all"] if any("auto" in line for line in lines) else []
    sheet = Sheet(
        f"{operation}, how many times as fast as the better of MPI library and gloo",
        ["size|B", "better", *(f"{name}|×" for name in lines[0]["ours"]), "memory's limit|×", *auto],
    )
    for line in lines:
        row = [f"{line['size_bytes']:,}", line["best_of_library_and_gloo"]]
        row += [f"{times:.2f}" for times in line["ours"].values()]
        row.append(f"{line['memory_limit']:.2f}")
        if auto:
            choice = line.get("auto")
            row += [choice["route"], f"{choice['of_the_best']:.2f}"] if choice else ["(not measured)", ""]
        sheet.rows.append(row)
    return sheet


def memory(report: dict[str, Any]) -> Sheet:
    columns = [f"{name.replace('_', ' ')}|GB/s" for name in MEMORY]
    sheet = Sheet("memory, read and written, by all ranks that take part together", ["size|B", *columns])
    for line in report["memory"]:
        sheet.rows.append([f"{line['size_bytes']:,}", *(f"{line[name]:.1f}" for name in MEMORY)])
    return sheet
