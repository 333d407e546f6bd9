"""The two sides of `gpu_train.py`, in one process on one GPU: mpidp's training loop, and PyTorch's as one writes it."""

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import BATCHES, Case, arguments, configured
from mpidp.arrays import array_module
from mpidp.building import build
from mpidp.comm import Communicator
from mpidp.errors import UserError
from mpidp.nn.layer import Arena

MPIDP, TORCH = "mpidp", "PyTorch"
SQUARE = 8192  # of the matrices whose product says what the GPU can do


@dataclass
class Side:
    """One who trains: `step(t)` makes step t = 1, 2, ...; `wait` returns when the device has made it; `loss` is its
    loss; `product(n)` gives what multiplies two n x n matrices in its type; `peak` is in bytes."""

    about: str
    step: Callable[[int], None]
    wait: Callable[[], None]
    loss: Callable[[], float]
    product: Callable[[int], Callable[[], Any]]
    peak: Callable[[], int | None]


def ours(case: Case, folder: Path, dtype: str, device: str, comm: Communicator) -> Side:
    """mpidp's loop, with all that belongs to it: batches from the host's memory, every number looked at, one wait."""
    job = build(configured([*arguments(case, 1, folder), "--device", device, "--dtype", dtype]), comm)
    xp, last = array_module(job.strategy.params), [0.0]
    if comm.rank == 0:
        job.model.initialise(job.config.run.seed)
    job.strategy.start()

    def step(t: int) -> None:
        made, x, y, slots = job.batch((t - 1) % BATCHES + 1)
        made = replace(made, t=t, lr=job.schedule(t))
        job.numbers.gradients(made, x, y, slots)
        job.prepare(t % BATCHES + 1)
        last[0] = job.numbers.loss(made) / max(len(x), 1)
        job.strategy.step(job.numbers.agreed(made))

    def wait() -> None:
        if xp is not np:
            xp.cuda.get_current_stream().synchronize()

    def peak() -> int | None:
        pool = getattr(xp, "get_default_memory_pool", None)
        return pool().total_bytes() if pool else None

    about = job.products.about
    return Side(about, step, wait, lambda: last[0], lambda n: product(job.products, xp, n), peak)


def product(products: Any, xp: Any, n: int) -> Callable[[], None]:
    """What multiplies two random n x n matrices as the model's layers do."""
    arena = Arena(xp, np.float32, products)
    draw = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    a, b = (products.take(xp.asarray(draw), products.memory(arena, (n, n))) for _ in range(2))
    out = xp.empty((n, n), np.float32)
    return lambda: products.matmul(a, b, out)


def theirs(folder: Path, dtype: str, device: str) -> Side:
    """PyTorch eager: fused AdamW, scaled_dot_product_attention, autocast for bfloat16; batches lie on the device.

    Nobody waits between steps. Raises UserError where there is no PyTorch for this device.
    """
    try:
        import torch

        from benchmarks import torch_models, torch_worker
    except ImportError as error:
        raise UserError(f"no PyTorch here: {error}") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} can use no GPU here")
    task = json.loads((folder / "task.json").read_text())
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    with np.load(folder / "weights.npz") as file:
        model = torch_models.build(task, dict(file)).to(device)
    optimizer = torch_worker.make_optimizer(task, model)
    batches = [
        (x.to(device), y.to(device))
        for x, y in torch_worker.load_batches(folder / "batches-0.npz", torch.contiguous_format)
    ]
    rough, last = dtype == "bfloat16", [torch.zeros(())]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step(t: int) -> None:
        if t <= len(task["lr"]):
            for group in optimizer.param_groups:
                group["lr"] = task["lr"][t - 1]
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=rough):
            loss = model(*batches[(t - 1) % len(batches)])
        loss.backward()
        optimizer.step()
        last[0] = loss.detach()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def peak() -> int | None:
        return torch.cuda.max_memory_reserved() if device == "cuda" else None

    def product(n: int) -> Callable[[], Any]:
        kind = torch.bfloat16 if rough else torch.float32
        a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    return Side(f"PyTorch {torch.__version__} eager", step, wait, lambda: last[0].item(), product, peak)


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
    """Give all memory that no side holds any more back to the device, before and afterwards."""
    release()
    try:
        yield
    finally:
        release()


def release() -> None:
    gc.collect()
    with contextlib.suppress(ImportError, AttributeError):
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device's memory does not hold what was asked for, whoever says it."""
    return (
        isinstance(error, MemoryError) or "out of memory" in str(error) or "this rank may take" in str(error)
    )
