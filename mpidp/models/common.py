"""What the small models share: the loss that fits the data, lists of widths, a check of the data's kind."""

import math

from mpidp.data.schema import Schema
from mpidp.errors import UserError
from mpidp.nn.cross_entropy import SoftmaxCrossEntropy
from mpidp.nn.flatten import Flatten
from mpidp.nn.layer import Initialiser, Layer, constant, uniform
from mpidp.nn.linear import Linear
from mpidp.nn.model import Loss
from mpidp.nn.squared_error import MeanSquaredError

WHAT = {
    "tokens": "text",
    "classes": "samples with a class each",
    "values": "samples with real targets",
}


def require(model: str, schema: Schema, kinds: tuple[str, ...], try_instead: str) -> None:
    """Raises UserError unless the data is of one of these kinds."""
    if schema.kind not in kinds:
        wanted = " or ".join(WHAT[kind] for kind in kinds)
        raise UserError(
            f"--model {model} learns from {wanted}, but this data is {WHAT[schema.kind]}: {try_instead}"
        )


def loss_for(schema: Schema) -> Loss:
    """Softmax cross-entropy for classes, mean squared error for real targets."""
    return SoftmaxCrossEntropy() if schema.kind == "classes" else MeanSquaredError()


def one_linear(inputs: tuple[int, ...], outputs: int) -> list[Layer]:
    """x W + b on flattened samples, from 0; its tensors are named `weight` and `bias`, as in `Data.truth`."""
    linear = Linear("linear", math.prod(inputs), outputs, constant(0.0))
    for parameter in linear.parameters():
        parameter.name = parameter.name.removeprefix("linear.")
    return [Flatten(), linear] if len(inputs) > 1 else [linear]


def widths(option: str, text: str) -> list[int]:
    """The numbers of a list such as "128,128"; an empty text is an empty list. Raises UserError."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{option} {text}: must be whole numbers above 0 with commas between them, such as 128,64"
        )
    return [int(part) for part in parts]


def he_uniform(inputs: int) -> Initialiser:
    """U(±√(6/inputs)): keeps the scale of activations through ReLU layers (He et al. 2015, arXiv:1502.01852)."""
    return uniform((6 / inputs) ** 0.5)
