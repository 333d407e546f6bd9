"""All that only a GPU can show, part by part: `python -m benchmarks.gpu_all --out docs/results` (see `gpu_all.sh`).

Each part is a command with a time limit; one that fails or is late does not keep the others from running. What they
found goes into FOLDER/gpu.md, with every command, and their JSON files beside it; parts that did not run, or for which
there is no time, stand there as not measured. `--list` writes that page with no part measured.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT, environment

TOTAL = 570.0  # seconds for all parts: with the start of the script, less than ten minutes
STAND_IN = ROOT / "tests" / "device"
RUN = "gpu-run"  # folder of a run, which is not kept
KEPT = 40  # lines of what a part without a table of its own has printed


@dataclass(frozen=True)
class Part:
    """One command; `OUT` in it is where its figures go, with a table of the same name in .md where it writes one."""

    name: str
    shows: str
    command: Sequence[str]
    limit: float  # seconds
    ranks: int = 1
    tried: Sequence[str] = field(default=())  # further options where the stand-in runs it
    gpu: bool = True  # whether it means nothing on the stand-in


PARTS = (
    Part("doctor", "driver, CUDA, CuPy and MPI of the machine", ("-m", "mpidp.doctor"), 40),
    Part(
        "tests", "the kernels, models, strategies and routes on the GPU, against the host",
        ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"), 150,
    ),
    Part(
        "train", "GPT-2 124M (T 1024) and smaller models against PyTorch eager: tokens/s, share of the measured matrix "
        "rate, memory, in bfloat16, tf32 and float32; loss curves of host and GPU",
        ("-m", "benchmarks.gpu_train", "--rounds", "5", "--out", "OUT"), 200,
        tried=("--cases", "tiny", "--batch", "1", "--dtypes", "float32", "--rounds", "2", "--seconds", "0.001",
               "--square", "16", "--torch-device", "cpu"), gpu=False,
    ),
    Part(
        "attention", "causal attention without the T x T matrix, against PyTorch's",
        ("-m", "benchmarks.gpu_attention", "--out", "OUT"), 60,
    ),
    Part(
        "collectives-2", "2 ranks on one GPU: peer memory against staging, and against the copy bandwidth",
        ("-m", "benchmarks.gpu_collectives", "--out", "OUT"), 60, ranks=2,
    ),
    Part(
        "collectives-4", "the same with 4 ranks",
        ("-m", "benchmarks.gpu_collectives", "--out", "OUT"), 40, ranks=4,
    ),
    Part(
        "program", "the train program on the GPU, 2 ranks: what it says at its end",
        ("-m", "mpidp.train", "--device", "cuda", "--steps", "60", "--run-dir", "RUN"), 40, ranks=2,
        tried=("--steps", "4", "--model", "mlp", "--data", "synthetic-classes"), gpu=False,
    ),
    Part(
        "kernels", "the same kernel by kernel, without CUDA graphs: its bits (params SHA-256) must be those above",
        ("-m", "mpidp.train", "--device", "cuda", "--cuda-graph", "off", "--steps", "60", "--run-dir", "RUN"), 40,
        ranks=2,
        tried=("--steps", "4", "--model", "mlp", "--data", "synthetic-classes"), gpu=False,
    ),
)  # fmt: skip


@dataclass
class Outcome:
    """How a part ended: "" where it is well, else why not."""

    wrong: str
    seconds: float
    text: str


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_all", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", metavar="FOLDER")
    parser.add_argument("--parts", metavar="NAME,...", help=f"of {', '.join(p.name for p in PARTS)} [all]")
    parser.add_argument("--list", action="store_true", help="measure nothing: say what is not measured")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="on the stand-in for CuPy, at the least size: do the parts start, and is the page written?",
    )
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.parts.split(",") if options.parts else [part.name for part in PARTS]
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"--parts: no such part: {', '.join(sorted(unknown))}")
    outcomes: dict[str, Outcome] = {}
    if not options.list:
        chosen = [part for part in PARTS if part.name in names and not (options.dry_run and part.gpu)]
        outcomes = measured(chosen, options.out.resolve(), options.dry_run)
    (options.out / "gpu.md").write_text(page(outcomes, options.out, options.dry_run))
    print(f"{options.out / 'gpu.md'} is written")
    return int(any(outcome.wrong for outcome in outcomes.values()))


def measured(parts: Sequence[Part], out: Path, dry: bool) -> dict[str, Outcome]:
    """Run the parts one after another, as long as there is time."""
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + TOTAL
    for part in parts:
        left = end - time.monotonic()
        print(f"{part.name}: {' '.join(words(part))} ...", flush=True)
        (out / f"gpu-{part.name}.json").unlink(missing_ok=True)  # an older run's
        (out / f"gpu-{part.name}.md").unlink(missing_ok=True)
        if left < 5:
            outcomes[part.name] = Outcome("no time was left", 0.0, "")
        else:
            outcomes[part.name] = run(command(part, out, dry), min(part.limit, left), around(dry))
            shutil.rmtree(out / RUN, ignore_errors=True)
        done = outcomes[part.name]
        print(f"{part.name}: {done.wrong or 'done'}, {done.seconds:.0f} s", flush=True)
    facts = {name: {"wrong": o.wrong, "seconds": round(o.seconds, 1)} for name, o in outcomes.items()}
    (out / "gpu.json").write_text(json.dumps({"environment": environment(), "parts": facts}, indent=1) + "\n")
    return outcomes


def words(part: Part) -> list[str]:
    """The command as a reader would type it."""
    launcher = ["mpirun", "-n", str(part.ranks)] if part.ranks > 1 else []
    places = {"OUT": f"docs/results/gpu-{part.name}.json", "RUN": "runs/gpu"}
    return [*launcher, "python", *(places.get(word, word) for word in part.command)]


def command(part: Part, out: Path, dry: bool) -> list[str]:
    """The command as it is run: with this Python, and its own launcher."""
    beside = Path(sys.executable).parent / "mpirun"
    launcher = [str(beside) if beside.exists() else "mpirun", "-n", str(part.ranks)] if part.ranks > 1 else []
    places = {"OUT": str(out / f"gpu-{part.name}.json"), "RUN": str(out / RUN)}
    tried = part.tried if dry else ()
    return [*launcher, sys.executable, *(places.get(word, word) for word in part.command), *tried]


def around(dry: bool) -> dict[str, str]:
    """The environment of the parts: this checkout's mpidp, and the stand-in for CuPy where it is a trial."""
    paths = [str(ROOT), *([str(STAND_IN)] if dry else []), os.environ.get("PYTHONPATH", "")]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # fmt: skip
    return {**os.environ, **allowed, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(command: Sequence[str], limit: float, env: Mapping[str, str]) -> Outcome:
    """Run a command to its end or its limit; nothing that it started is left behind."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wrong = ""
    try:
        text, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        wrong = f"ended after {limit:.0f} s, its limit"
        end_group(process.pid)
        text, _ = process.communicate()
    if process.returncode and not wrong:
        wrong = f"ended with exit code {process.returncode}"
    return Outcome(wrong, time.monotonic() - began, text)


def end_group(group: int) -> None:
    """SIGTERM, and after a moment SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        time.sleep(2)


def page(outcomes: Mapping[str, Outcome], out: Path, dry: bool = False) -> str:
    """docs/results/gpu.md."""
    missing = [part for part in PARTS if part.name not in outcomes]
    lines = ["# On a GPU", ""]
    if dry:
        lines += ["**A trial on the stand-in for CuPy: no figure here is a measurement.**", ""]
    if outcomes:
        lines += [machine(environment()), ""]
    for part in PARTS:
        if part.name in outcomes:
            lines += section(part, outcomes[part.name], out)
    if missing:
        lines += ["## Not yet measured", "", NOT_YET, ""]
        lines += [f"- **{part.name}**: {part.shows}. `{' '.join(words(part))}`" for part in missing]
        lines += ["", HOW]
    return "\n".join(lines).rstrip() + "\n"


NOT_YET = """Without a GPU the code has run on a stand-in for CuPy alone (`tests/device/cupy`), which computes on the
host and refuses what CuPy and CUDA refuse, as far as it knows; kernel sources are compiled by NVRTC for sm_80 and
sm_90. A pass there is no proof for a GPU, and says nothing of speed. What is still to be shown:"""
HOW = """One command does it all, in less than ten minutes, on a machine with an NVIDIA GPU (Python 3.11 or later, CuPy
14 and PyTorch installed, no network needed); it writes this page anew:

```sh
bash benchmarks/gpu_all.sh --pack wheels    # where there is a network: MPI, mpi4py and the small packages as wheels
bash benchmarks/gpu_all.sh --wheels wheels  # on the machine with the GPU, in the same checkout
```

It makes an environment of its own in `.venv-gpu`, which sees the machine's packages."""


def section(part: Part, outcome: Outcome, out: Path) -> list[str]:
    table = out / f"gpu-{part.name}.md"
    text = table.read_text() if table.exists() else fenced(outcome.text)
    state = f"**{outcome.wrong}**" if outcome.wrong else "done"
    title = f"## {part.name}: {part.shows}"
    told = [text.rstrip(), ""]
    if outcome.wrong and table.exists():
        told += [fenced(outcome.text), ""]
    return [title, "", f"`{' '.join(words(part))}` ({state}, {outcome.seconds:.0f} s)", "", *told]


def fenced(text: str) -> str:
    """The last lines of what was printed, without what is for terminals alone."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("```", "'''")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in plain.splitlines()]
    return "\n".join(["```", *lines[-KEPT:], "```"])


def machine(facts: Mapping[str, Any]) -> str:
    keys: dict[str, Callable[[Any], str]] = {
        "cpu": str, "cores": lambda n: f"{n} cores", "python": lambda v: f"Python {v}",
        "numpy": lambda v: f"NumPy {v}", "torch": lambda v: f"PyTorch {v}", "mpi": str,
        "commit": lambda v: f"commit {v}", "date": str,
    }  # fmt: skip
    return "; ".join(say(facts[key]) for key, say in keys.items() if facts.get(key))


if __name__ == "__main__":
    sys.exit(main())
