"""What a source hands over: samples, and what a model needs to know about them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.errors import UserError

if TYPE_CHECKING:
    from mpidp.data.tokenizer import Tokenizer

DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class Schema:
    """The form of a sample.

    kind: "tokens", "classes" or "values". inputs: shape of a sample's x, (T,) tokens, (F,) features, or
    (height, width, channels) of an image. outputs: vocabulary size, number of classes (binary: 2), or number
    of regression targets.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: int


class Dataset:
    """One part (training or validation) of the data.

    labels: class of every sample (int32), or None for text and regression.
    """

    labels: np.ndarray | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of these samples, in this order: fresh contiguous arrays, empty where `indices` is.

        x: (B, *inputs) of the dtype asked, or int32 (B, T) tokens; y: int32 (B,) classes, (B, K) values, or
        int32 (B, T) tokens, x shifted by one. Raises RunError where the file behind it is not what it was.
        """
        raise NotImplementedError


@dataclass
class Data:
    """A source's answer: two disjoint parts and how to read them.

    tokenizer: text alone. truth: the exact solution where there is one (synthetic-regression: the
    least-squares "weight" (F, 1) and "bias" (1,) of the training part). content: a hash of what was read, before
    anything was computed of it ("": nothing was).
    """

    name: str
    schema: Schema
    train: Dataset
    validation: Dataset
    tokenizer: "Tokenizer | None" = None
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    content: str = ""

    def fingerprint(self) -> str:
        """16 hex digits of a hash over sizes, schema, tokenizer, `content` and 64 spread samples: equal where data are.

        `content` covers every byte of up to 64 MiB, and of what is larger 1024 evenly spread blocks of 64 KiB. Of real
        numbers this takes sign and magnitude (a power of two) of the samples alone: hosts with unlike processors may
        round sums differently.
        """
        digest = hashlib.sha256(
            repr((self.schema, len(self.train), len(self.validation), self.content)).encode()
        )
        if self.tokenizer is not None:
            digest.update(self.tokenizer.to_json().encode())
        for part in (self.train, self.validation):
            for array in part.batch(np.linspace(0, len(part) - 1, 32).astype(np.int64)):
                digest.update(array.tobytes() if array.dtype.kind == "i" else _magnitudes(array).tobytes())
        return digest.hexdigest()[:16]


def _magnitudes(x: np.ndarray) -> np.ndarray:
    """sign(x) · max(0, e + 10), where 2ᵉ⁻¹ ≤ |x| < 2ᵉ: 0 for |x| < 2⁻¹⁰, which may be rounding of 0."""
    _, exponents = np.frexp(x.astype(np.float64))
    return (np.sign(x) * np.maximum(exponents + 10, 0)).astype(np.int16)


@dataclass(frozen=True)
class Request:
    """What the run asks of a source.

    dtype: of x and of real y; seed: of shuffles and synthetic draws; context: tokens T of a window (text;
    None: 128); validation_fraction: in (0, 1), used where a source brings no test part of its own; memory: bytes
    that this rank may take (None: unknown).
    """

    dtype: Any = np.float32
    seed: int = 0
    context: int | None = None
    validation_fraction: float = 0.1
    memory: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.validation_fraction < 1.0:
            raise UserError(f"--validation-fraction {self.validation_fraction} must be above 0 and below 1")
        if self.context is not None and self.context < 1:
            raise UserError(f"--context {self.context} must be at least 1")

    @property
    def window(self) -> int:
        """T."""
        return DEFAULT_CONTEXT if self.context is None else self.context

    def require_memory(self, need: int, what: str, cure: str) -> None:
        """Raise UserError where a rank may not take so many bytes."""
        if self.memory is not None and need > self.memory:
            raise UserError(
                f"{what} take {need / 2**30:.1f} GiB, more than the {self.memory / 2**30:.1f} GiB that are free for "
                f"each rank on this host: {cure}"
            )


@dataclass(frozen=True)
class Source:
    """A place that data come from: `load(options, request) -> Data`, options an instance of `Options`."""

    summary: str
    Options: type
    load: Callable[..., Data]
