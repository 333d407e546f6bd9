"""What an experiment is: a claim with its source, the runs that test it, and what is read off them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Mapping[str, Sequence[float]]]
"""side -> quantity -> a value for each seed."""


@dataclass(frozen=True)
class Verdict:
    """agrees: whether our figures say what the paper says; text: by which figures, and why not where they do not."""

    agrees: bool
    text: str


@dataclass(frozen=True)
class Experiment:
    """A claim and its test.

    sides: name -> options of mpidp.train; all get `common`, `--seed`, and the options that `data` makes in a folder.
    shown: quantities of the table, (name, unit, decimals). judge: from the results to the verdict.
    quick: options that make it short, for a look at whether it runs.
    """

    name: str
    claim: str
    source: str
    ranks: int
    common: str
    sides: Mapping[str, str]
    seeds: int
    shown: Sequence[tuple[str, str, int]]
    judge: Callable[[Results], Verdict]
    quick: str
    data: Callable[[Any], list[str]] | None = None
    note: str = ""


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def uncertainty(*groups: Sequence[float]) -> float:
    """The standard error of the difference of these groups' means."""
    return sum(spread(values) ** 2 / len(values) for values in groups) ** 0.5


def gap(results: Results, side: str, other: str, quantity: str) -> tuple[float, float]:
    """(mean of `side` - mean of `other`, twice its standard error): a difference beyond the latter is no accident."""
    ours, theirs = results[side][quantity], results[other][quantity]
    return mean(ours) - mean(theirs), 2 * uncertainty(ours, theirs)


def signed(value: float, error: float, digits: int) -> str:
    return f"{value:+.{digits}f} ± {error:.{digits}f}"
