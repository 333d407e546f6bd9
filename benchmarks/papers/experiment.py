"""What an experiment is: a claim with its source, the runs that test it, and what is read off them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AGREES, PARTLY, DISAGREES = "agrees", "agrees in part", "disagrees"

Results = Mapping[str, Mapping[str, Sequence[float]]]
"""side -> quantity -> a value for each seed."""


@dataclass(frozen=True)
class Verdict:
    """here: whether our figures say what the paper says (AGREES, ...); text: which figures."""

    here: str
    text: str


@dataclass(frozen=True)
class Experiment:
    """A claim and its test.

    sides: name -> options of mpidp.train; all get `common`, `--seed`, and the options that `data` makes in a folder.
    shown: quantities of the table, (name, unit, decimals). judge: from the results to the verdict.
    quick: options that make it short, for a look at whether it runs. since: traffic is counted behind this step.
    why: what is to be known of the set-up, and the reason where the verdict is not the paper's.
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
    since: int = 0
    why: str = ""


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def gap(results: Results, side: str, other: str, quantity: str) -> tuple[float, float]:
    """(mean of `side` - `other` over the seeds, twice its standard error): beyond the latter it is no accident.

    Differences are taken seed by seed: both sides have the same data, order and initial values.
    """
    pairs = zip(results[side][quantity], results[other][quantity], strict=True)
    differences = [a - b for a, b in pairs]
    return mean(differences), 2 * spread(differences) / len(differences) ** 0.5


def times_fewer(results: Results, side: str, other: str) -> float:
    """How many times fewer bytes the busiest rank sends in `side` than in `other`."""
    return mean(results[other]["MB sent"]) / mean(results[side]["MB sent"])


def signed(value: float, error: float, digits: int) -> str:
    return f"{value:+.{digits}f} ± {error:.{digits}f}"
