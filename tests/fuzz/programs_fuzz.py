"""Whole runs of the training program, on one rank of this process, under random options."""

import contextlib
import io
from pathlib import Path
from random import Random

from mpidp.comm.threads import ThreadCommunicator
from mpidp.train import run
from tests.fuzz.options_fuzz import OPTIONS, arguments

SMALL = {
    "model": ["linear", "logistic", "mlp"],
    "data": ["synthetic-classes", "synthetic-regression"],
    "steps": ["1", "2"],
    "samples": ["40"],
    "batch-size": ["4", "8"],
}
NOT_HERE = {
    "run-dir", "calibration", "config", "preset", "epochs", "layers", "width", "context", "hidden", "features",
    "samples", "classes", "threads", "data", "model", "vocabulary", "size", "json", "resume", "slow", "log-every",
    "steps", "batch-size", "blas",
}  # fmt: skip
"""What would make a run long, or write elsewhere: the fuzzer of command lines has it all."""


def words(rng: Random, folder: Path) -> list[str]:
    """A command line of a small run."""
    line = []
    for name, values in SMALL.items():
        line += [f"--{name}", rng.choice(values)]
    extra = arguments(rng)
    keep = False
    for word in extra:
        if word.startswith("--"):
            name = word[2:].split("=")[0].removeprefix("no-")
            keep = name in OPTIONS and name not in NOT_HERE
        if keep:
            line.append(word)
    return [*line, "--run-dir", str(folder)]


def ran(line: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(ThreadCommunicator(0, 1), line) == 0
