"""Bytes that a training step moves on a GPU, and its launches, kernel by kernel: `python -m benchmarks.gpu_traffic`.

Nothing is measured and no GPU needed: forward and backward are planned and called on the stand-in for CuPy
(`tests/device`), where each launch only notes what it was given. An array that a kernel may only read counts once, one
that it writes once, one that it changes in place twice; what a kernel finds again in the cache does not count, nor what
attention's tiles load more than once. The optimizer's one launch, 28 bytes a parameter under AdamW, comes on top.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import ROOT
from mpidp.data import Schema
from mpidp.models import MODELS
from mpidp.nn.kernels import attention_plan, cuda_source

IN_PLACE = {"add": 0, "add_bias": 0, "gelu_backward": 2, "softmax_cross_entropy": 0, "layer_norm_backward": 4}
"""Which argument a kernel reads and writes; layer norm's dx where it is added to a stream's gradient."""
SIGNATURE = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(([^)]*)\)")


class Noted:
    """Launches and bytes by name."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        kernels = [cuda_source.SOURCE, *{k.source for k in attention_plan.all_kernels()}]
        self.signatures = {
            name: words.split(",") for text in kernels for name, words in SIGNATURE.findall(text)
        }

    def kernel(self, name: str, arguments: Sequence[Any]) -> None:
        self.launches[name] += 1
        for i, (words, given) in enumerate(zip(self.signatures[name], arguments, strict=True)):
            if not hasattr(given, "nbytes") or isinstance(given, np.generic):
                continue
            size = given.nbytes
            if name.startswith("embedding") and words.split()[-1] in ("table", "grad"):  # a row a token
                size = arguments[3 if name == "embedding" else 1].nbytes
            reads, writes = "const" in words or IN_PLACE.get(name) == i, "const" not in words
            self.read[name] += size * reads
            self.written[name] += size * writes

    def product(self, a: Any, b: Any, out: Any) -> None:
        self.launches["products"] += 1
        self.read["products"] += a.nbytes + b.nbytes
        self.written["products"] += out.nbytes


def noted(size: str, batch: int, tokens: int, dtype: str) -> tuple[Noted, int]:
    """What forward and backward of one batch move, and the model's parameters. On the stand-in alone."""
    sys.path.insert(0, str(ROOT / "tests" / "device"))
    import cupy

    from mpidp.device import Device
    from mpidp.nn.kernels import cupy_attention, cupy_kernels, cupy_launch

    found = Noted()

    def launch(name: str, types: Any, blocks: int, *arguments: Any, **_: Any) -> None:
        found.kernel(name, arguments)

    def attend(self: Any, name: str, arrays: Sequence[Any], others: Sequence[Any]) -> None:
        found.kernel(name, (*arrays, *others, np.int32(0), np.int32(0)))

    cupy_launch.launch = cupy_kernels.launch = launch
    cupy_attention.CausalAttention._launch = attend
    products = Device(cupy, "a GPU", dtype=dtype).products()
    products.matmul = found.product  # type: ignore[method-assign]
    options = MODELS["gpt"].Options(size=size, context=tokens)
    model = MODELS["gpt"].build(options, Schema("tokens", (tokens,), options.vocabulary or 256), np.float32)
    model.bind(cupy.zeros(model.size, "f4"), cupy.empty(model.size, "f4"), products)
    ids = np.zeros((2, batch, tokens), np.int32)
    model.gradients(*ids, 1.0)
    return found, model.size


def table(found: Noted) -> list[str]:
    lines = ["| kernel | launches | read | written |", "|---|---|---|---|"]
    for name in sorted(found.launches, key=lambda n: -(found.read[n] + found.written[n])):
        read, written = (f"{count[name] / 1e6:,.0f} MB" for count in (found.read, found.written))
        lines.append(f"| {name} | {found.launches[name]} | {read} | {written} |")
    total = [f"{sum(count.values()) / 1e6:,.0f} MB" for count in (found.read, found.written)]
    return [*lines, f"| **all** | {found.launches.total()} | {total[0]} | {total[1]} |"]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="gpt2", help="of the GPT (gpt2)")
    parser.add_argument("--batch", type=int, default=8, help="sequences (8)")
    parser.add_argument("--tokens", type=int, default=1024, help="of each (1024)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "tf32", "bfloat16", "float16"))
    parser.add_argument("--out", type=Path, help="JSON of the same figures")
    options = parser.parse_args(given)
    found, parameters = noted(options.size, options.batch, options.tokens, options.dtype)
    print(f"{options.size}, {parameters:,} parameters, {options.batch} x {options.tokens}, {options.dtype}\n")
    print("\n".join(table(found)))
    if options.out:
        facts = {name: dict(getattr(found, name)) for name in ("launches", "read", "written")}
        options.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
