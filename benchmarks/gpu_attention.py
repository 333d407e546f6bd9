"""Causal attention on one GPU, mpidp's kernels against PyTorch's: `python -m benchmarks.gpu_attention`.

Forward and backward of attention alone, on the same numbers: q, k and v are thirds of one array on mpidp's side, arrays
(B, T, H, D) of their own on PyTorch's (scaled_dot_product_attention; for types of 16 bits its flash kernels, else its
memory-efficient ones). What both compute is compared first. Then they take turns, round after round; figures are
medians over rounds, and of the rounds' ratios. Operations are counted as 2 B H T² D forward, half of the square, and
2.5 times as many backward, whatever a side computes anew. A * marks a side that was kept waiting by its host: its
launches alone took nearly as long.

Expected, and measured nowhere yet, of mpidp on an H100 or H200 at D = 64 in bfloat16: where mma.sync gives 0.6 of the
tensor cores' full rate, it takes 6.5 clocks for 16 x 8 x 16. Each warp has 32 rows of 16 bits, so that four such
products follow a read of 512 bytes of shared memory (4 clocks). For 32 queries and 64 keys forward has 128 products,
830 clocks of a quarter of a multiprocessor, beside 650 to 770 instructions: products bind, if barely. Backward computes
7 products instead of 5 and keeps every sum in one order: 620 clocks for 32 x 32 by queries, 830 by keys. That bounds
8 x 12 x 1024 x 64 by 25 and 85 µs; two blocks of four warps on a multiprocessor should come within 1.5 times of both.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import environment
from benchmarks.gpu_sides import MPIDP, TORCH, giving_back
from benchmarks.gpu_train import described, enough
from benchmarks.results import ratio
from mpidp.device import Device, usable
from mpidp.errors import UserError
from mpidp.nn.kernels.plain import attention, attention_backward
from mpidp.nn.layer import Arena

SHAPES = "8x12x1024x64,32x12x1024x64,8x12x4096x64,8x16x2048x128,64x6x256x64"
TOLERANCE = {"bfloat16": 2e-2, "float16": 3e-3, "tf32": 3e-3, "float32": 2e-5}
"""Of the largest number of each result: what the types' own roundings explain."""
FORWARD, BACKWARD = "forward", "backward"
HEADERS = ("B x H x T x D", "type", "", "mpidp (TFLOP/s)", "PyTorch (TFLOP/s)", "ratio")


@dataclass
class Side:
    """One who computes attention: what each call does, how to wait for the device, and (out, dq, dk, dv) in float32."""

    about: str
    calls: dict[str, Callable[[], Any]]
    wait: Callable[[], None]
    results: Callable[[], list[np.ndarray]]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_attention",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--shapes", default=SHAPES, metavar="BxHxTxD,...", help=f"[{SHAPES}]")
    add(
        "--dtypes",
        metavar="NAME,...",
        help=f"of {', '.join(TOLERANCE)} [all for the first shape, else bfloat16]",
    )
    add("--rounds", type=int, default=9, metavar="N", help="turns of each side [9]")
    add("--seconds", type=float, default=0.1, metavar="S", help="of a turn, about [0.1]")
    add("--torch-device", choices=("cuda", "cpu"), default="cuda", help="of PyTorch's side [cuda]")
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON, and the table beside it as .md")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(given)
    try:
        shapes = [shape_of(text) for text in options.shapes.split(",")]
        dtypes = options.dtypes.split(",") if options.dtypes else None
        if unknown := set(dtypes or ()) - set(TOLERANCE):
            raise UserError(f"--dtypes {','.join(sorted(unknown))}: known are {', '.join(TOLERANCE)}")
        gpu = described()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cases = []
    for number, shape in enumerate(shapes):
        for dtype in dtypes or (TOLERANCE if number == 0 else ("bfloat16",)):
            print(f"{'x'.join(map(str, shape))} in {dtype} ...", flush=True)
            with giving_back():
                cases.append({"shape": shape, "dtype": dtype, **contest(shape, dtype, options)})
    found = {"gpu": gpu, "options": {k: str(v) for k, v in vars(options).items()}, "cases": cases}
    found["environment"] = environment()
    text = page(found)
    print(f"\n{text}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)
    return int(any(wrong(case) for case in cases))


def shape_of(text: str) -> tuple[int, ...]:
    """(B, H, T, D). Raises UserError."""
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--shapes {text}: wants samples x heads x tokens x columns, such as 8x12x1024x64")
    return tuple(map(int, parts))


def contest(shape: tuple[int, ...], dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """Errors of both sides, and their rates, round by round."""
    batch, heads, tokens, depth = shape
    q, k, v, do = np.random.default_rng(0).normal(size=(4, batch, tokens, heads, depth)).astype(np.float32)
    found: dict[str, Any] = {"sides": {}}
    sides: dict[str, Side] = {}
    makers = {
        MPIDP: lambda: ours(q, k, v, do, dtype),
        TORCH: lambda: theirs(q, k, v, do, dtype, options.torch_device),
    }
    expected = first_head(q, k, v, do)
    for name, make in makers.items():
        try:
            side = make()
            for call in side.calls.values():
                call()
        except (UserError, RuntimeError) as error:
            found["sides"][name] = {"failed": f"{error}".splitlines()[0]}
            continue
        sides[name] = side
        found["sides"][name] = {"about": side.about, "errors": errors(side, expected)}
    for which, times in ((FORWARD, 1.0), (BACKWARD, 2.5)):
        flops = 2 * batch * heads * tokens**2 * depth * times
        counts = {
            name: enough(lambda n, s=s, w=which: seconds(s, w, n)[0], options.seconds)
            for name, s in sides.items()
        }
        for turn in range(options.rounds):
            for name in sorted(sides, reverse=bool(turn % 2)):
                took, launching = seconds(sides[name], which, counts[name])
                figures = found["sides"][name].setdefault(which, {"flops": [], "launching": []})
                figures["flops"].append(counts[name] * flops / took)
                figures["launching"].append(launching / took)
    return found


def seconds(side: Side, which: str, count: int) -> tuple[float, float]:
    """Of so many calls to the end of the device's work, and until the host had asked for all of them."""
    call = side.calls[which]
    side.wait()
    began = time.perf_counter()
    for _ in range(count):
        call()
    asked = time.perf_counter()
    side.wait()
    return time.perf_counter() - began, asked - began


def first_head(*arrays: np.ndarray) -> list[np.ndarray]:
    """(out, dq, dk, dv) of the first sample's first head, in float64."""
    q, k, v, do = (a[:1, :, :1].transpose(0, 2, 1, 3).astype(np.float64) for a in arrays)
    return [a[0, 0] for a in (attention(q, k, v), *attention_backward(q, k, v, do))]


def errors(side: Side, expected: list[np.ndarray]) -> list[float]:
    """Of out, dq, dk and dv, as parts of the largest number of each."""
    return [
        float(np.abs(a - e).max() / np.abs(e).max()) for a, e in zip(side.results(), expected, strict=True)
    ]


def ours(q, k, v, do, dtype: str) -> Side:
    """mpidp's kernels, with activations as a model has them."""
    from mpidp.nn.kernels.cupy_attention import CausalAttention

    cupy, _ = usable()
    batch, tokens, heads, depth = q.shape
    products = Device(cupy, "this GPU", dtype=dtype).products()
    arena = Arena(cupy, np.float32, products)
    core = CausalAttention(arena, batch, tokens, heads, depth)

    def placed(*parts: np.ndarray) -> Any:
        whole = cupy.asarray(np.concatenate([p.reshape(batch, tokens, -1) for p in parts], -1))
        return products.take(whole, products.memory(arena, whole.shape))

    qkv, dout = placed(q, k, v), placed(do)
    out, dqkv = cupy.empty_like(dout), cupy.empty_like(qkv)

    def results() -> list[np.ndarray]:
        parts = [out[0, :, :depth], *(dqkv[0, :, i * heads * depth :][:, :depth] for i in range(3))]
        return [widened(part.get()) for part in parts]

    calls = {
        FORWARD: lambda: core.forward(qkv, out),
        BACKWARD: lambda: core.backward(qkv, out, dout, dqkv),
    }
    return Side(f"{dtype} kernels", calls, lambda: cupy.cuda.get_current_stream().synchronize(), results)


def widened(x: np.ndarray) -> np.ndarray:
    """float32; uint16 are the bits of bfloat16."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x.astype(np.float32)


def theirs(q, k, v, do, dtype: str, device: str) -> Side:
    """PyTorch's kernels. Raises UserError where there is no PyTorch for this device."""
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        raise UserError(f"no PyTorch here: {error}") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} can use no GPU here")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    kind = getattr(torch, dtype, torch.float32)
    flash = kind in (torch.bfloat16, torch.float16) or device == "cpu"
    backend = SDPBackend.FLASH_ATTENTION if flash else SDPBackend.EFFICIENT_ATTENTION
    arrays = [torch.from_numpy(a).to(device, kind).transpose(1, 2) for a in (q, k, v)]
    gradient = torch.from_numpy(do).to(device, kind).transpose(1, 2)
    leaves = [a.detach().requires_grad_() for a in arrays]
    compute = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel(backend):
        out = compute(*leaves, is_causal=True)
    made: list[Any] = []

    def forward() -> None:
        with torch.no_grad(), sdpa_kernel(backend):
            compute(*arrays, is_causal=True)

    def backward() -> None:
        made[:] = torch.autograd.grad(out, leaves, gradient, retain_graph=True)

    def results() -> list[np.ndarray]:
        return [x[0, 0].detach().float().cpu().numpy() for x in (out, *made)]

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    name = backend.name.lower().replace("_", " ")
    return Side(f"PyTorch {torch.__version__}, {name}", {FORWARD: forward, BACKWARD: backward}, wait, results)


def wrong(case: dict[str, Any]) -> bool:
    """Whether a side failed, or computed something else."""
    return any("failed" in s or max(s["errors"]) > TOLERANCE[case["dtype"]] for s in case["sides"].values())


def page(found: dict[str, Any]) -> str:
    """The GPU, and a line for each shape, type and direction."""
    gpu = found["gpu"]
    versions = ", ".join(f"{k} {v}" for k, v in gpu.items() if k != "name")
    align = ["---", "---", "---", "---:", "---:", "---:"]
    lines = [HEADERS, align, *(line for case in found["cases"] for line in rows(case))]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    largest = {
        name: max(
            (max(c["sides"][name]["errors"]) for c in found["cases"] if "errors" in c["sides"][name]),
            default=0,
        )
        for name in (MPIDP, TORCH)
    }
    errors = f"mpidp {largest[MPIDP]:.1e}, PyTorch {largest[TORCH]:.1e}"
    return f"{gpu['name']} ({versions})\n\n{table}\nLargest error, of the largest number: {errors}.\n"


def rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for which in (FORWARD, BACKWARD):
        mine, other = (case["sides"][name] for name in (MPIDP, TORCH))
        quotient = (
            f"{ratio(mine[which]['flops'], other[which]['flops']):.2f}"
            if which in mine and which in other
            else ""
        )
        shape = " x ".join(map(str, case["shape"]))
        lines.append((shape, case["dtype"], which, told(mine, which), told(other, which), quotient))
    return lines


def told(side: dict[str, Any], which: str) -> str:
    if which not in side:
        return side["failed"]
    waiting = "*" if median(side[which]["launching"]) > 0.9 else ""
    return f"{median(side[which]['flops']) / 1e12:.1f}{waiting}"


if __name__ == "__main__":
    sys.exit(main())
