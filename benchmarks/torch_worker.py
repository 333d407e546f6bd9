"""PyTorch's side of `train_throughput.py`, under torch.distributed.run: data parallelism by DDP over gloo.

`python -m benchmarks.torch_worker SOCKET INDEX FOLDER SIDE`; FOLDER holds what `cases.write_task` wrote, SIDE a
name of `sides.py`. Imports nothing of mpidp. What helps PyTorch is on: fused optimizers, scaled_dot_product_attention,
gradients that are views of DDP's buckets. For bfloat16, autocast: as in mpidp, weights and their gradients are float32.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks import torch_models
from benchmarks.worker import Line, Work, serve


def main(path: str, index: int, folder: Path, compiled: bool, channels_last: bool) -> None:
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    line = Line(path, index + rank)
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo")
    serve(line, work(folder, (index + rank), ranks, compiled, channels_last))
    if ranks > 1:
        dist.destroy_process_group()


def work(folder: Path, part: int, ranks: int, compiled: bool, channels_last: bool) -> Work:
    """The task in `folder`, on part number `part` of its batches."""
    task = json.loads((folder / "task.json").read_text())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with np.load(folder / "weights.npz") as file:
        model = torch_models.build(task, dict(file))
    if channels_last:
        model = model.to(memory_format=layout)
    optimizer = make_optimizer(task, model)
    groups = optimizer.param_groups
    if ranks > 1:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    if compiled:
        model = torch.compile(model)
    batches = load_batches(folder / f"batches-{part}.npz", layout)
    rates = task["lr"]
    rough = task["dtype"] == "bfloat16"

    def take(t: int) -> float:
        x, y = batches[(t - 1) % len(batches)]
        if t <= len(rates):
            for group in groups:
                group["lr"] = rates[t - 1]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            loss = model(x, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Work(take, dist.barrier if ranks > 1 else lambda: None, square)


def make_optimizer(task: dict[str, Any], model: torch.nn.Module) -> torch.optim.Optimizer:
    """mpidp's optimizer and its rule that weights of two and more dimensions alone decay."""
    settings = task["settings"]
    parameters = list(model.parameters())
    decay = settings["weight_decay"]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if task["optimizer"] == "sgd":
        return torch.optim.SGD(groups, task["lr"][0], settings["momentum"], fused=True)
    betas = (settings["beta1"], settings["beta2"])
    return torch.optim.AdamW(groups, task["lr"][0], betas, settings["epsilon"], fused=True)


def load_batches(path: Path, layout: torch.memory_format) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """[(x, y), ...] as PyTorch takes them: whole numbers in 64 bits, images NCHW in the model's layout."""
    with np.load(path) as file:
        xs, ys = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    xs, ys = (a.long() if a.dtype == torch.int32 else a for a in (xs, ys))
    if xs.ndim == 5:
        return [
            (x.permute(0, 3, 1, 2).contiguous(memory_format=layout), y) for x, y in zip(xs, ys, strict=True)
        ]
    return list(zip(xs, ys, strict=True))


def square(n: int) -> Callable[[], Any]:
    a, b, out = torch.ones(n, n), torch.ones(n, n), torch.empty(n, n)
    return lambda: torch.mm(a, b, out=out)


if __name__ == "__main__":
    side = sys.argv[4]
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), "compile" in side, "channels_last" in side)
