"""What does it cost to look at every gradient and parameter whether it is finite? The figures of docs/reliability.md.

    OMP_NUM_THREADS=1 python -m benchmarks.finite_cost [--seconds 4]

One rank's steps, in turns with the watch over its numbers and without it; medians, with the quartiles between
which half of the steps are.
"""

import argparse
import sys
import time
from statistics import median, quantiles

from mpidp.building import Job, build
from mpidp.comm import run_ranks
from mpidp.commandline import parse
from mpidp.config import resolve

CASES = {
    "GPT tiny": ["--batch-size", "8"],
    "GPT small": ["--size", "small", "--batch-size", "4"],
    "MLP 64-512-512-10": ["--model", "mlp", "--batch-size", "128", "--hidden", "512,512"],
    "CNN": ["--model", "cnn", "--batch-size", "64"],
    "linear": ["--model", "linear"],
}


def watched(job: Job, t: int) -> float:
    """Seconds of step t as the training loop makes it."""
    step, x, y, slots = job.batch(t)
    began = time.perf_counter()
    job.numbers.gradients(step, x, y, slots)
    job.numbers.loss(step)
    job.strategy.step(job.numbers.agreed(step))
    return time.perf_counter() - began


def plain(job: Job, t: int) -> float:
    """The same without the watch."""
    step, x, y, slots = job.batch(t)
    began = time.perf_counter()
    job.model.gradients(
        x, y, job.strategy.scale(step), job.ready,
        between=job.strategy.advance, key=(0, t), slots=slots, cuts=step.cuts, adder=job.adder,
    )  # fmt: skip
    job.strategy.step(step)
    return time.perf_counter() - began


def measured(arguments: list[str], seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of steps without and with the watch, each way first in every other turn."""

    def body(comm):
        given, _, _ = parse(arguments)
        job = build(resolve(given, {}), comm)
        job.model.initialise(0)
        job.strategy.start()
        times = {plain: [], watched: []}
        until = time.perf_counter() + seconds
        t = 0
        while time.perf_counter() < until or t < 4:
            t = t % (job.steps - 1) + 1
            for way in (plain, watched) if t % 2 else (watched, plain):
                times[way].append(way(job, t))
        return times[plain], times[watched]

    return run_ranks(1, body)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4, help="for each case [4]")
    seconds = parser.parse_args().seconds
    for name, arguments in CASES.items():
        without, with_it = measured(arguments, seconds)
        low, _, high = quantiles(without)
        more = median(with_it) - median(without)
        print(
            f"{name}: {1e3 * median(without):.4g} ms ({1e3 * low:.4g} to {1e3 * high:.4g}) a step, with the watch "
            f"{1e6 * more:+.3g} µs, {100 * more / median(without):+.2f} %; {len(without)} steps each",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
