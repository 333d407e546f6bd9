"""Training on one GPU, mpidp against PyTorch eager: `python -m benchmarks.gpu_train`.

The same models, initial values, batches and optimizer settings, in one process. Both sides first make the same steps
and their losses are compared; then they take turns, round after round. mpidp's side is its training loop with all that
belongs to it: batches come from the host's memory, every loss and gradient is looked at, the host waits once a step.
PyTorch's batches lie on the device, and nobody waits. Figures are medians over rounds, and of the rounds' ratios.

Utilisation is (6 N + 12 L d T) operations a token (Chowdhery et al. 2022, arXiv:2204.02311, appendix B; N parameters,
L layers, d channels, T tokens) over the rate of products of 8192 x 8192 matrices in the same type, measured in the same
run: the better of mpidp's cuBLAS calls and PyTorch's. Memory is what each side's allocator has taken at most.

Besides, a small GPT in float32 is trained on the host and on the GPU, and the two loss curves are compared.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case, cases, gpt, write_data, write_task
from benchmarks.environment import environment, version
from benchmarks.gpu_sides import MPIDP, SQUARE, TORCH, Side, giving_back, ours, out_of_memory, theirs
from benchmarks.gpu_tables import page, wrong
from benchmarks.results import ratio
from mpidp.comm import Communicator, run_ranks
from mpidp.device import CPU, usable
from mpidp.errors import UserError

CHECKED = 10  # steps whose losses are compared
CURVE = 30  # steps on the host and on the GPU
DTYPES = ("bfloat16", "tf32", "float32")


def models() -> dict[str, Case]:
    """What is trained, with the largest batch that is tried."""
    mlp = replace(cases()["mlp"], batch=4096)
    every = [
        gpt("gpt2", 12, 12, 768, 1024, 16, 50257),
        gpt("medium", 12, 12, 768, 256, 64, 8192),
        gpt("small", 6, 6, 384, 256, 64, 256),
        gpt("tiny", 4, 4, 128, 128, 8, 256),
        mlp,
    ]
    return {case.name: case for case in every}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_train",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cases", metavar="NAME,...", help=f"of {', '.join(models())} [gpt2,medium,small,mlp]")
    add("--dtypes", metavar="NAME,...", help="of bfloat16, tf32, float32 [all for gpt2, else bfloat16]")
    add("--batch", type=int, metavar="B", help="samples of a step [the case's, halved until it fits]")
    add("--rounds", type=int, default=7, metavar="N", help="turns of each side [7]")
    add("--seconds", type=float, default=1.0, metavar="S", help="of a turn, about [1]")
    add("--quick", action="store_true", help="gpt2 and small, 3 rounds of half a second")
    add("--device", choices=("cuda", CPU), default="cuda", help="of mpidp's side [cuda]")
    add("--torch-device", choices=("cuda", CPU), default="cuda", help="of PyTorch's side [cuda]")
    add("--square", type=int, default=SQUARE, metavar="N", help=f"of the matrices multiplied [{SQUARE}]")
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON, and the table beside it as .md")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(given)
    if options.quick:
        options.cases, options.rounds, options.seconds = options.cases or "gpt2,small", 3, 0.5
    names = (options.cases or "gpt2,medium,small,mlp").split(",")
    try:
        unknown = [n for n in names if n not in models()]
        if unknown:
            raise UserError(f"--cases {','.join(unknown)}: known are {', '.join(models())}")
        gpu = described() if options.device != CPU else {"name": "none"}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = run_ranks(1, lambda comm: measured(names, options, comm))[0]
    found = {"gpu": gpu, "options": {k: str(v) for k, v in vars(options).items()}, **found}
    found["environment"] = environment()
    text = page(found, {name: case.tokens or 1 for name, case in models().items()})
    print(f"\n{text}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)
    return int(bool(wrong(found)))


def described() -> dict[str, Any]:
    """The GPU and what drives it. Raises UserError where there is none."""
    cupy, _ = usable()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    driver = cupy.cuda.runtime.driverGetVersion()
    return {"name": name, "cuda_driver": driver, "cupy": cupy.__version__, "torch": version("torch")}


def measured(names: Sequence[str], options: argparse.Namespace, comm: Communicator) -> dict[str, Any]:
    found: dict[str, Any] = {"cases": {}}
    for name in names:
        dtypes = options.dtypes.split(",") if options.dtypes else DTYPES if name == "gpt2" else DTYPES[:1]
        for dtype in dtypes:
            print(f"{name} in {dtype} ...", flush=True)
            found["cases"].setdefault(name, {})[dtype] = largest(models()[name], dtype, options, comm)
    print("loss curves of host and GPU ...", flush=True)
    found["curve"] = curve(options, comm)
    return found


def largest(case: Case, dtype: str, options: argparse.Namespace, comm: Communicator) -> dict[str, Any]:
    """`contest` with the largest batch that both sides find room for."""
    batch = options.batch or case.batch
    while True:
        with giving_back():
            try:
                return contest(replace(case, batch=batch), dtype, options, comm)
            except Exception as error:
                if not out_of_memory(error) or batch == 1:
                    return {"failed": f"{type(error).__name__}: {error}"}
        batch //= 2


def contest(case: Case, dtype: str, options: argparse.Namespace, comm: Communicator) -> dict[str, Any]:
    found: dict[str, Any] = {"batch": case.batch, "about": case.about, "sides": {}}
    sides: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_data(case, 1, folder)
        write_task(case, 1, folder, dtype)
        found["parameters"] = json.loads((folder / "task.json").read_text())["parameters"]
        makers: dict[str, Callable[[], Side]] = {
            MPIDP: lambda: ours(case, folder, dtype, options.device, comm),
            TORCH: lambda: theirs(folder, dtype, options.torch_device),
        }
        for name, make in makers.items():
            try:
                sides[name] = make()
            except UserError as error:
                if out_of_memory(error):
                    raise
                found["sides"][name] = {"failed": str(error)}
                continue
            found["sides"][name] = {"about": sides[name].about, "losses": losses(sides[name])}
            found["sides"][name]["peak_bytes"] = sides[name].peak()
    found["loss_difference"] = difference(*(found["sides"][n].get("losses") for n in (MPIDP, TORCH)))
    steps = {name: enough(lambda k, s=side: work(s, k), options.seconds) for name, side in sides.items()}
    square = {name: side.product(options.square) for name, side in sides.items()}
    products = {
        n: enough(lambda k, n=n: multiply(sides[n], square[n], k), options.seconds / 4) for n in sides
    }
    for turn in range(options.rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            side, figures = sides[name], found["sides"][name]
            rate = steps[name] * case.batch / work(side, steps[name])
            figures.setdefault("samples_per_second", []).append(rate)
            rate = products[name] * 2 * options.square**3 / multiply(side, square[name], products[name])
            figures.setdefault("product_flops", []).append(rate)
    return found | figures_of(case, found)


def losses(side: Side) -> list[float]:
    """Of the first steps; they warm up, too."""
    found = []
    for t in range(1, CHECKED + 1):
        side.step(t)
        found.append(side.loss())
    return found


def work(side: Side, count: int) -> float:
    """Seconds of so many steps, to the end of the device's work."""
    side.wait()
    began = time.perf_counter()
    for t in range(CHECKED + 1, CHECKED + 1 + count):
        side.step(t)
    side.wait()
    return time.perf_counter() - began


def multiply(side: Side, product: Callable[[], Any], count: int) -> float:
    side.wait()
    began = time.perf_counter()
    for _ in range(count):
        product()
    side.wait()
    return time.perf_counter() - began


def enough(seconds_of: Callable[[int], float], seconds: float) -> int:
    """How many times fill so many seconds, by one that was made before and is warm."""
    seconds_of(1)
    return max(1, round(3 * seconds / max(seconds_of(3), 1e-6)))


def difference(a: list[float] | None, b: list[float] | None) -> float | None:
    """max |a_t - b_t| / |b_t|."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True)) if a and b else None


def figures_of(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """Medians, the ratio, and the share of the measured rate that the model's own operations take."""
    able = {n: f for n, f in found["sides"].items() if "samples_per_second" in f}
    peak = max(median(f["product_flops"]) for f in able.values())
    flops = operations(case, found["parameters"])
    result: dict[str, Any] = {"flops_per_sample": flops, "product_flops": peak}
    for f in able.values():
        f["rate"] = median(f["samples_per_second"])
        f["utilisation"] = f["rate"] * flops / peak
    if len(able) == 2:
        result["ratio"] = ratio(able[MPIDP]["samples_per_second"], able[TORCH]["samples_per_second"])
    return result


def operations(case: Case, parameters: int) -> int:
    """Of one sample: (6 N + 12 L d T) T for text, the products' own for the MLP."""
    if not case.tokens:
        return case.flops
    said = dict(word[2:].split("=") for word in case.arguments if "=" in word)
    return (6 * parameters + 12 * int(said["layers"]) * int(said["width"]) * case.tokens) * case.tokens


def curve(options: argparse.Namespace, comm: Communicator) -> dict[str, Any]:
    """A small GPT in float32, the same steps on the host and on the device."""
    case, found = gpt("curve", 2, 2, 64, 64, 4, 256), {}
    try:
        with tempfile.TemporaryDirectory() as text, giving_back():
            write_data(case, 1, Path(text))
            for device in (CPU, options.device):
                side = ours(case, Path(text), "float32", device, comm)
                found[device] = []
                for t in range(1, CURVE + 1):
                    side.step(t)
                    found[device].append(side.loss())
        return found | {"steps": CURVE, "difference": difference(found[options.device], found[CPU])}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.exit(main())
