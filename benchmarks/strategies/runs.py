"""Which runs: ready-made sets, lists and grids of options, and what all runs have in common."""

import itertools
import shlex
from collections.abc import Sequence

from benchmarks.cases import configured
from benchmarks.watched import options_of
from mpidp.errors import UserError
from mpidp.strategies import STRATEGIES

COMMON = "--model gpt --layers 2 --heads 4 --width 64 --context 64 --batch-size 32 --steps 240 --lr 3e-3"
ROUTE = "ring"
"""The route of a run that names none: one that sends messages, which have a price on a network."""

PRESETS = {
    "default": (
        "allreduce",
        "allreduce --compress fp16",
        "allreduce --compress int8",
        "allreduce --compress topk --density 0.05",
        "allreduce --compress powersgd --rank 2",
        "sharded",
        "server",
        "server --consistency asynchronous",
        "averaging --period 8",
        "averaging --period 40 --outer sgd",
        "gossip --graph ring",
        "gossip --graph one-peer",
        "none",
    ),
    "routes": tuple(
        f"allreduce --collective {route}"
        for route in ("ring", "halving-doubling", "tree", "pairwise", "hierarchical", "shared", "mpi")
    ),
    "encodings": (
        "allreduce",
        *(
            f"allreduce --compress {name}"
            for name in ("fp16", "bf16", "int8", "qsgd", "topk", "randomk", "dgc", "powersgd")
        ),
        *(f"allreduce --compress {name} --collective pairwise" for name in ("sign", "onebit")),
    ),
    "averaging": (
        "allreduce",
        *(f"averaging --period {h}" for h in (2, 8, 40)),
        *(f"averaging --period {h} --outer sgd" for h in (8, 40)),
        "averaging --period 8 --sync-steps 80",
        *(f"averaging --period 8 --outer {outer}" for outer in ("bmuf", "slowmo")),
        "streaming --period 8",
        "elastic --period 8",
        "none",
    ),
    "gossip": (
        "allreduce",
        *(f"gossip --graph {graph}" for graph in ("ring", "torus", "exponential", "one-peer")),
        "gossip --graph random --mixing push-sum",
        "none",
    ),
    "servers": (
        "allreduce",
        "server",
        "server --servers 2",
        "server --backup-workers 1",
        "server --consistency stale --staleness 2",
        "server --consistency asynchronous",
        "server --consistency asynchronous --scale-by-staleness",
        "onesided",
    ),
}


def listed(text: str) -> list[str]:
    """The runs of "allreduce; averaging --period 8". Raises UserError where there is none."""
    runs = [" ".join(part.split()) for part in text.split(";") if part.strip()]
    if not runs:
        raise UserError("--runs names no run: write for example --runs 'allreduce; averaging --period 8'")
    return runs


def grid(text: str) -> list[str]:
    """The runs of "sync=allreduce,sharded collective=ring,tree": each value with each of the others."""
    axes = []
    for word in shlex.split(text):
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise UserError(
                f"--grid: {word!r} is no option with values: write for example sync=allreduce,sharded"
            )
        axes.append([f"--{name} {value}" for value in values.split(",")])
    if not axes:
        raise UserError("--grid names no option: write for example --grid 'sync=allreduce,sharded'")
    return [shortened(" ".join(choice)) for choice in itertools.product(*axes)]


def shortened(text: str) -> str:
    """ "averaging --period 8" for "--sync averaging --period 8"."""
    return text.removeprefix("--sync ")


def arguments(run: str, common: Sequence[str]) -> list[str]:
    """The whole command line of a run."""
    words = [*common, *options_of(run)]
    sync = words[len(words) - words[::-1].index("--sync")] if "--sync" in words else "allreduce"
    strategy = STRATEGIES.get(sync)
    named = {"--collective", "--reproducible"} & set(words)  # the latter has a route of its own
    if strategy is not None and strategy.uses_collective and not named:
        words += ["--collective", ROUTE]
    return words


def completed(common: Sequence[str]) -> list[str]:
    """What all runs have in common, with evaluations and logged losses often enough for the curves.

    Raises UserError where mpidp does not take it.
    """
    words = list(common) or shlex.split(COMMON)
    steps = configured(words).run.steps
    for name, parts in (("--eval-every", 8), ("--log-every", 40)):
        if steps and name not in words:
            words += [name, str(max(1, steps // parts))]
    return words
