"""What do passes over arrays cost in NumPy, and which habits make them cheap? The figures of docs/performance.md.

    python -m benchmarks.elementwise [--rounds 25] [--out FILE]

Every line is one way of doing something; the ways of a question take turns in every round.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import ROOT, environment
from mpidp.arrays import zeros
from mpidp.nn.kernels import numpy_kernels, plain
from mpidp.nn.layer import Parameter, constant
from mpidp.optim.adamw import AdamW, AdamWOptions, adamw_reference

OUT = ROOT / "docs" / "results" / "elementwise.json"
BLOCK = 1 << 16  # elements: 256 kB of float32
LARGE = 1 << 22  # elements: 16 MB, beyond a core's own caches
Way = tuple[int, Callable[[], object]]  # elements, and what is done with them
Ways = dict[str, Way]


def questions() -> Iterator[tuple[str, Ways]]:
    """Each question with its ways; elements are float32."""
    yield "Where the arrays lie: x · y of 65,536 elements", dict(alignment())
    yield "Rows that cannot be joined: 65,536 elements times a factor for each row", dict(rows())
    yield "A chain of passes: GELU and its derivative, of 4,194,304 elements", dict(blocks())
    yield "AdamW", dict(adamw())
    yield "Ways of writing the same", dict(spellings())


def alignment() -> Iterator[tuple[str, Way]]:
    for offset in (0, 16, 32):
        x, y, out = (vector(BLOCK, offset) for _ in range(3))
        yield (
            f"{offset} bytes behind a line of the cache",
            (BLOCK, lambda x=x, y=y, out=out: np.multiply(x, y, out)),
        )


def rows() -> Iterator[tuple[str, Way]]:
    for columns in (128, 384, 768):
        count = BLOCK // columns
        x, out = (vector(count * columns).reshape(count, columns) for _ in range(2))
        factors = vector(count)[:, None]
        for size in (8192, 1024, 16):

            def scale(x=x, factors=factors, out=out, size=size):
                before = np.setbufsize(size)
                np.multiply(x, factors, out)
                np.setbufsize(before)

            yield f"{columns} columns, NumPy's buffers of {size} elements", (x.size, scale)


def blocks() -> Iterator[tuple[str, Way]]:
    x, slope = vector(LARGE), vector(LARGE)
    yield "plain, whole array a pass", (LARGE, lambda: plain.gelu(x))
    for size in (1 << 12, 1 << 14, BLOCK):
        work = vector(2 * BLOCK).reshape(2, BLOCK)

        def in_blocks(size=size, work=work):
            for lo in range(0, LARGE, size):
                numpy_kernels.gelu(x[lo : lo + size], None, slope[lo : lo + size], True, work)

        yield f"tuned, blocks of {size:,}", (LARGE, in_blocks)


def adamw() -> Iterator[tuple[str, Way]]:
    options = AdamWOptions()
    for where, n in (("in the cache", BLOCK), ("from memory", LARGE)):
        params, grads = vector(n), vector(n)
        m, v = vector(n), np.abs(vector(n))
        weight = Parameter("w", (n, 1), constant(0.0))
        weight.lo, weight.hi = 0, n
        optimizer = AdamW(options, [weight], 0, n, params)

        def plainly(params=params, grads=grads, m=m, v=v):
            adamw_reference(params, grads, m, v, 1e-9, 10, options, 1.0)

        yield f"as in the papers, {where}", (n, plainly)
        yield (
            f"11 passes in blocks, {where}",
            (
                n,
                lambda optimizer=optimizer, params=params, grads=grads: optimizer.step(
                    params, grads, 0, 1e-9, 10
                ),
            ),
        )


def spellings() -> Iterator[tuple[str, Way]]:
    x, out, mask = vector(BLOCK), vector(BLOCK), vector(BLOCK) > 0
    far, small = np.full(BLOCK, -140.0, np.float32), np.full(BLOCK, -100.0, np.float32)
    yield "x**3", (BLOCK, lambda: np.power(x, 3, out))
    yield "x · x · x", (BLOCK, lambda: np.multiply(np.multiply(x, x, out), x, out))
    yield "where(mask, x, 0)", (BLOCK, lambda: np.where(mask, x, np.float32(0)))
    yield "x · mask", (BLOCK, lambda: np.multiply(x, mask, out))
    yield "exp2, results normal", (BLOCK, lambda: np.exp2(small, out))
    yield "exp2, results denormal", (BLOCK, lambda: np.exp2(far, out))


def vector(n: int, offset: int = 0) -> np.ndarray:
    """n normally distributed numbers, `offset` bytes behind a line of the cache."""
    made = zeros(np, n, np.float32, offset // 4)
    made[...] = np.random.default_rng(n).standard_normal(n, np.float32)
    return made


def measure(ways: Ways, rounds: int) -> dict[str, float]:
    """Nanoseconds an element, medians of the rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first round touches memory, and does not count
        for name, (n, do) in ways.items():
            repeat = max(1, BLOCK * 8 // n)
            began = time.perf_counter()
            for _ in range(repeat):
                do()
            times[name].append((time.perf_counter() - began) / repeat / n * 1e9)
    return {name: median(values[1:]) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elementwise", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=25, help="turns of each way (25)")
    parser.add_argument(
        "--out", type=Path, default=OUT, help=f"the JSON; its tables as .md beside it ({OUT})"
    )
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.elementwise", *sys.argv[1:]]),
        "environment": environment(),
        "ns_per_element": {},
    }
    text = ""
    with np.errstate(all="ignore"):
        for question, ways in questions():
            found = report["ns_per_element"][question] = measure(ways, options.rounds)
            text += f"{question}:\n\n| way | ns an element |\n| --- | ---: |\n"
            text += "".join(f"| {name} | {ns:.2f} |\n" for name, ns in found.items()) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
