"""What `train_throughput.py` trains: the models, their data, and the floating-point operations they take."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.building import make_split
from mpidp.commandline import parse
from mpidp.config import Config, resolve
from mpidp.data import Request
from mpidp.data import load as load_data
from mpidp.models import MODELS
from mpidp.optim import SCHEDULES

BATCHES = 16  # different global batches, taken in turn
SCHEDULED = 50
"""Steps after which the learning rate has come down to a thousandth: the first steps learn, so that losses can be
compared, and later ones leave the model as it is, so that the last round computes with numbers like the first's."""

COMMON = [
    "--seed",
    "1",
    "--schedule",
    "cosine",
    "--warmup",
    "0",
    "--final-lr",
    "0.001",
    "--steps",
    str(SCHEDULED),
]


@dataclass(frozen=True)
class Case:
    """A model with its data; `batch`: samples a rank; `flops`: of one sample's products, forward and backward."""

    name: str
    about: str
    batch: int
    flops: int
    arguments: tuple[str, ...]  # mpidp's options, without those of the data
    inputs: tuple[int, ...] = ()  # shape of a sample's x; () where the data are drawn by mpidp itself
    tokens: int = 0  # of a sample, where it is text
    classes: int = 0  # or its vocabulary
    formats: tuple[str, ...] = ("contiguous",)  # PyTorch's memory formats that are worth trying


def gpt_flops(layers: int, width: int, tokens: int, vocabulary: int) -> int:
    """Products of one sequence: 2 operations an element forward, 4 backward, over all weights but the positions.

    12 C² weights a block and V C of the tied output; attention's two products count over the causal half of the
    T x T places, T (T + 1) / 2, since nothing else need be computed (Chowdhery et al. 2022, arXiv:2204.02311,
    appendix B, count them all).
    """
    weights = 12 * layers * width**2 + vocabulary * width
    return 6 * weights * tokens + 6 * layers * 2 * width * tokens * (tokens + 1) // 2


def dense_flops(sizes: Sequence[int], first: bool = True) -> int:
    """Products of one sample through linear layers: 6 operations a weight; the model's first layer needs no dx: 4."""
    products = [a * b for a, b in itertools.pairwise(sizes)]
    return 6 * sum(products) - (2 * products[0] if first else 0)


def cnn_flops(side: int, channels: Sequence[int], sizes: Sequence[int], kernel: int = 3) -> int:
    """Products of one image: convolutions at every place, each halving the sides by its pool, then dense layers."""
    total, inputs = 0, 1
    for i, outputs in enumerate(channels):
        total += (4 if i == 0 else 6) * side**2 * kernel**2 * inputs * outputs
        side, inputs = side // 2, outputs
    return total + dense_flops([side**2 * inputs, *sizes], first=False)


def gpt(name: str, layers: int, heads: int, width: int, tokens: int, batch: int, vocabulary: int) -> Case:
    sizes = {"layers": layers, "heads": heads, "width": width, "context": tokens, "vocabulary": vocabulary}
    about = f"GPT, {layers} layers, {heads} heads, {width} wide, T {tokens}, V {vocabulary}"
    arguments = [f"--{key}={value}" for key, value in sizes.items()]
    flops = gpt_flops(layers, width, tokens, vocabulary)
    return Case(
        name, about, batch, flops,
        ("--model=gpt", *arguments, "--dropout=0", "--optimizer=adamw", f"--lr={0.128 / width:g}"),
        (tokens,), tokens, vocabulary,
    )  # fmt: skip


def cases() -> dict[str, Case]:
    adamw = ("--dropout=0", "--optimizer=adamw", "--lr=1e-3")
    every = [
        gpt("tiny", 4, 4, 128, 128, 8, 256),
        gpt("small", 6, 6, 384, 256, 4, 256),
        gpt("medium", 12, 12, 768, 256, 2, 8192),
        Case(
            "mlp", "MLP 784-512-512-10", 128, dense_flops([784, 512, 512, 10]),
            ("--model=mlp", "--hidden=512,512", *adamw), (784,), classes=10,
        ),
        Case(
            "cnn", "CNN 28 x 28, 1-16-32 channels 3 x 3, 120-84-10", 64, cnn_flops(28, [16, 32], [120, 84, 10]),
            ("--model=cnn", "--channels=16,32", "--hidden=120,84", *adamw), (28, 28, 1), classes=10,
            formats=("contiguous", "channels_last"),
        ),
        Case(
            "linear", "linear regression, 10 features, SGD", 50, dense_flops([10, 1]),
            ("--model=linear", "--optimizer=sgd", "--lr=0.01", "--data=synthetic-regression", "--features=10"),
        ),
    ]  # fmt: skip
    return {case.name: case for case in every}


def arguments(case: Case, ranks: int, folder: Path) -> list[str]:
    """mpidp's options for this case on so many ranks, its data in `folder` (see `write_data`)."""
    samples = BATCHES * case.batch * ranks
    data = [f"--data={data_path(case, folder)}"] if case.inputs else [f"--samples={samples}"]
    batch = ["--batch-size", str(case.batch * ranks), "--validation-fraction", "1e-6"]
    return [*COMMON, *case.arguments, *data, *batch]


def data_path(case: Case, folder: Path) -> Path:
    return folder / (f"{case.name}.npy" if case.tokens else f"{case.name}.npz")


def write_data(case: Case, ranks: int, folder: Path) -> None:
    """Random samples in the form of the case: BATCHES global batches, and a validation part of the least size."""
    if not case.inputs:
        return
    rng = np.random.default_rng(2)
    path, samples = data_path(case, folder), BATCHES * case.batch * ranks
    if case.tokens:
        length = samples * case.tokens + 1 + case.tokens + 1
        np.save(path, rng.integers(0, case.classes, length, dtype=np.int32))
    else:
        x = rng.normal(size=(samples + 1, *case.inputs)).astype(np.float32)
        np.savez(path, x=x, y=rng.integers(0, case.classes, samples + 1))


def configured(arguments: Sequence[str]) -> Config:
    """mpidp's options as `mpidp.train` reads them, but without clipping unless it is asked for."""
    given, file, preset = parse(arguments)
    config = resolve(file | given, preset)
    if "clip" not in given:
        config.run.clip = None
    return config


def write_task(case: Case, ranks: int, folder: Path, dtype: str) -> None:
    """What PyTorch's side needs, so that it need not import mpidp: task.json, weights.npz, batches-RANK.npz.

    dtype: mpidp's --dtype for the measured runs; the files hold float32.
    """
    config = configured(arguments(case, ranks, folder))
    run = config.run
    request = Request(
        np.dtype(run.dtype), run.seed, getattr(config.model, "context", None), run.validation_fraction
    )
    data = load_data(run.data, config.data, request)
    split = make_split(config, data, ranks)
    for rank in range(ranks):
        parts = [data.train.batch(split.part(0, turn, rank)[0]) for turn in range(BATCHES)]
        assert all(len(x) == case.batch for x, _ in parts), [len(x) for x, _ in parts]
        x, y = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        np.savez(folder / f"batches-{rank}.npz", x=x, y=y)
    model = MODELS[run.model].build(config.model, data.schema, run.dtype)
    model.bind(np.zeros(model.size, run.dtype), np.zeros(model.size, run.dtype))
    model.initialise(run.seed)
    np.savez(folder / "weights.npz", **{p.name: p.value for p in model.parameters})
    schedule = SCHEDULES[run.schedule](config.schedule, run.lr, SCHEDULED)
    task: dict[str, Any] = {
        "model": run.model,
        "dtype": dtype,
        "heads": getattr(config.model, "heads", 0),
        "optimizer": run.optimizer,
        "settings": vars(config.optimizer),
        "lr": [schedule(t) for t in range(1, SCHEDULED + 1)],
        "parameters": model.size,
    }
    (folder / "task.json").write_text(json.dumps(task))
