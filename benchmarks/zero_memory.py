"""How much memory does a rank take, in bytes a parameter, against the formula of ZeRO (1910.02054)?

    python -m benchmarks.zero_memory [--ranks 1,2,4] [--width 1024] [--layers 48] [--steps 3] [--out FILE]

An MLP of about layers · width² parameters on two samples a rank, so that activations are small, in float32 with AdamW:
4 bytes a parameter, 4 for its gradient, 8 for the optimizer's two moments. Measured is what the system provides to a
rank in pages: the most in training steps (VmHWM), less what it had before the model was built; of memory that ranks
share, each counts its part. Linux alone.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cases import configured
from benchmarks.collective_tables import Sheet
from benchmarks.collectives import Parser, publish
from benchmarks.environment import ROOT, environment
from benchmarks.groups import SETTINGS, BenchmarkError, mpirun
from mpidp.building import build
from mpidp.comm import Communicator
from mpidp.comm.world import guarded, say
from mpidp.errors import UserError

OUT = ROOT / "docs" / "results" / "zero-memory.json"
LIMIT = 300.0  # seconds for one launch
WORKER = "worker"

WAYS: dict[str, tuple[list[str], Callable[[int], float]]] = {
    "allreduce": (["--sync", "allreduce", "--collective", "ring"], lambda p: 16),
    "sharded": (["--sync", "sharded", "--collective", "ring"], lambda p: 4 + 4 + 8 / p),
    "sharded --stage 2": (["--sync", "sharded", "--stage", "2"], lambda p: 4 + (4 + 8) / p),
    "sharded, by shared": (
        ["--sync", "sharded", "--collective", "shared"],
        lambda p: 4 / p + 4 + 8 / p,
    ),
}
"""Of each way: its options, and the bytes a parameter that the formula gives for P ranks."""


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; the exit code: 2 where this machine or the options do not allow it, 1 where it fails."""
    try:
        options = parse(arguments)
        report = measure(options, arguments)
        publish(report, [sheet(report)], options.out)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    return 0


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "benchmark": "zero_memory",
        "command": shlex.join(["python", "-m", "benchmarks.zero_memory", *arguments]),
        "notes": [],
        "environment": environment(),
        "results": [],
    }
    for ranks in options.ranks:
        for way, (choice, formula) in WAYS.items():
            found = launch(ranks, [*model(options, ranks), *choice])
            n = found["parameters"]
            per_parameter = [peak / n for peak in found["bytes"]]
            report["results"].append(
                {
                    "ranks": ranks,
                    "way": way,
                    "options": choice,
                    "parameters": n,
                    "formula": formula(ranks),
                    "measured_by_rank": per_parameter,
                    "measured": mean(per_parameter),
                    "beyond_mib": (mean(found["bytes"]) - formula(ranks) * n) / 2**20,
                }
            )
    return report


def model(options: argparse.Namespace, ranks: int) -> list[str]:
    """mpidp.train's options for all ways."""
    hidden = ",".join([str(options.width)] * options.layers)
    data = ["--data", "synthetic-regression", "--features", str(options.width), "--samples", "64"]
    length = ["--batch-size", str(2 * ranks), "--steps", str(options.steps)]
    return ["--model", "mlp", "--hidden", hidden, *data, *length, "--optimizer", "adamw"]


def launch(ranks: int, arguments: list[str]) -> dict[str, Any]:
    """What ranks with these options find of themselves."""
    with tempfile.TemporaryDirectory(prefix="mpidp-memory-") as folder:
        answer = Path(folder) / "answer.json"
        command = [*mpirun(ranks), "-m", "benchmarks.zero_memory", WORKER, str(answer), *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | SETTINGS, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{shlex.join(command)}: not done after {LIMIT:g} s") from None
        if done.returncode:
            raise BenchmarkError(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(answer.read_text())


def work(comm: Communicator, path: str, arguments: Sequence[str]) -> int:
    """Train as the options say; rank 0 writes what every rank took."""
    before = resident("VmRSS")
    config = configured(arguments)
    job = build(config, comm)
    model, strategy, seed = job.model, job.strategy, config.run.seed
    if comm.rank == 0:
        model.initialise(seed)
    strategy.start()
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the peak is that of training, not of making initial values
    for t in range(1, job.steps + 1):
        step, x, y, slots = job.batch(t)
        scale = strategy.scale(step)
        model.gradients(x, y, scale, strategy.ready, between=strategy.advance, key=(seed, t), slots=slots)
        strategy.step(step)
    taken = comm.allgather(resident("VmHWM") - before)
    if comm.rank == 0:
        Path(path).write_text(json.dumps({"parameters": model.size, "bytes": taken}))
    comm.Barrier()
    return 0


def resident(name: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most (VmHWM); of what ranks share, its part (proc(5))."""
    status = sizes("/proc/self/status")
    return status[name] - status["RssShmem"] + sizes("/proc/self/smaps_rollup")["Pss_Shmem"]


def sizes(path: str) -> dict[str, int]:
    """The lines `name: N kB` of a file of /proc, in bytes."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if line[-1] == "kB"}


def sheet(report: dict[str, Any]) -> Sheet:
    made = Sheet(
        f"bytes a parameter that a rank takes in training, {report['results'][0]['parameters']:,} parameters, float32, "
        f"AdamW (`{report['command']}`)",
        [
            "ranks",
            "route",
            "formula|B a parameter",
            "measured|B a parameter",
            "least|B",
            "most|B",
            "beyond|MiB",
        ],
    )
    for line in report["results"]:
        ranks = line["measured_by_rank"]
        made.rows.append(
            [
                str(line["ranks"]),
                line["way"],
                f"{line['formula']:.2f}",
                f"{line['measured']:.2f}",
                f"{min(ranks):.2f}",
                f"{max(ranks):.2f}",
                f"{line['beyond_mib']:.0f}",
            ]
        )
    return made


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.zero_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks, with commas between them (1,2,4)")
    parser.add_argument("--width", type=int, default=1024, help="of a layer (1024)")
    parser.add_argument("--layers", type=int, default=48, help="of that width (48)")
    parser.add_argument("--steps", type=int, default=3, help="of training (3)")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON; its table as .md beside it")
    options = parser.parse_args(arguments)
    if not all(part.isdigit() and int(part) for part in options.ranks.split(",")):
        raise UserError(f"--ranks {options.ranks}: numbers of at least 1 with commas between them")
    options.ranks = [int(part) for part in options.ranks.split(",")]
    for name in ("width", "layers", "steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if sys.platform != "linux":
        raise UserError("memory is read from /proc, which only Linux has in this form")
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        sys.exit(guarded(lambda comm: work(comm, sys.argv[2], sys.argv[3:])))
    sys.exit(main(sys.argv[1:]))
