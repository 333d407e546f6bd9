"""What do local steps by speed gain where a rank is slow? The figures of docs/reliability.md.

    python -m benchmarks.adapted_steps [--rounds 5] [--slow 1:3] [options of mpidp.train]

Model averaging on two ranks, of which one is made slow, with `--adapt-steps` and without, in turns; told are medians
over the rounds of the quotients: seconds of as many steps of the fast rank, and so of as many averages, and losses.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.groups import ROOT, SETTINGS, mpirun

RUN = ["--sync", "averaging", "--period", "24", "--steps", "240", "--collective", "ring"]
WAYS = {"plain": [], "adapted": ["--adapt-steps"]}


def made(way: str, options: Sequence[str], seed: int) -> dict[str, Any]:
    """The summary of a run. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="mpidp-adapted-") as folder:
        command = [*mpirun(2), "-m", "mpidp.train", *RUN, *options, *WAYS[way], "--seed", str(seed)]
        command += ["--run-dir", str(Path(folder) / "run"), "--json"]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = os.environ | SETTINGS | {"PYTHONPATH": paths}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, timeout=600, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow", default="1:3")
    known, options = parser.parse_known_args()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in range(known.rounds):
        for way in WAYS if seed % 2 else reversed(WAYS):
            found[way].append(made(way, [*options, "--slow", known.slow], seed))
    for name in ("seconds", "validation_loss"):
        pairs = zip(found["adapted"], found["plain"], strict=True)
        ratios = [adapted[name] / plain[name] for adapted, plain in pairs]
        both = ", ".join(f"{way} {median(facts[name] for facts in found[way]):.4g}" for way in WAYS)
        print(
            f"{name}: {both}; adapted / plain {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    last = found["adapted"][-1]
    share = last["samples_left_out"] / (last["samples"] + last["samples_left_out"])
    print(f"local steps of the ranks {last['local_steps_by_rank']}, samples left out {100 * share:.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
