"""What the loss of a rank does to the validation loss: `python -m tests.faults.spread [--seeds N]`, on threads.

Runs that lose a rank after a random step, and runs that are without it from their beginning, beside runs that nothing
happens to, with other data, weights and orders of samples for each seed; longer, and with more held-out samples, than
those that `harness.py` kills ranks of. A run that goes on has the bits of these (see `expected.py`), so what is true of
these is true of it.
"""

import argparse
import random
import statistics
import sys

from tests.faults.expected import Expected
from tests.faults.harness import RANKS, SYNCS

STEPS, COPY_EVERY = 60, 2
MODEL = (
    "--model mlp --data synthetic-classes --features 5 --classes 3 --samples 4000 --hidden 16 --batch-size 24 "
    f"--lr 0.01 --steps {STEPS} --blas numpy --json"
).split()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.spread", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args(arguments).seeds)
    print(
        "| `--sync` | a rank fewer from the beginning | a rank lost on the way | standard error of its mean |"
    )
    print("|---|---|---|---|")
    for sync in SYNCS:
        fewer, lost = zip(*(apart(sync, seed) for seed in seeds), strict=True)
        error = statistics.stdev(lost) / len(lost) ** 0.5
        print(f"| {sync} | {told(fewer)} | {told(lost)} | {error:.1%} |", flush=True)
    return 0


def apart(sync: str, seed: int) -> tuple[float, float]:
    """How far both validation losses are above that of the run that nothing happens to, as a share of its gain."""
    draw = random.Random(f"{sync} {seed}")
    expected = Expected(sync, RANKS, [*MODEL, "--sync", sync, *SYNCS[sync], "--seed", str(seed)], COPY_EVERY)
    whole, _ = expected.undisturbed()
    step = COPY_EVERY * draw.randint(0, STEPS // COPY_EVERY)
    gained = whole["validation_loss_before"] - whole["validation_loss"]
    fewer, lost = expected.fewer(), expected.after((draw.randrange(RANKS),), step)
    return tuple((run["validation_loss"] - whole["validation_loss"]) / gained for run in (fewer, lost))


def told(shares: tuple[float, ...]) -> str:
    return f"{statistics.mean(shares):+.1%} ± {statistics.stdev(shares):.1%}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
