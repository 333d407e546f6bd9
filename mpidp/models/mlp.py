"""A multi-layer perceptron: linear layers with ReLU or GELU between them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.data.schema import Schema
from mpidp.models.common import he_uniform, loss_for, require, widths
from mpidp.nn.activations import GELU
from mpidp.nn.dropout import Dropout
from mpidp.nn.flatten import Flatten
from mpidp.nn.layer import Layer
from mpidp.nn.linear import Linear
from mpidp.nn.model import Model
from mpidp.nn.relu import ReLU
from mpidp.options import option

ACTIVATIONS: dict[str, type[Layer]] = {"relu": ReLU, "gelu": GELU}


@dataclass
class Options:
    """The widths of its layers, and what lies between them."""

    hidden: str = option(
        "256,256", "widths of the hidden layers, with commas between them", metavar="N,N,..."
    )
    activation: str = option("relu", "between linear layers", choices=tuple(ACTIVATIONS))
    dropout: float = option(0.0, "probability of dropping a hidden element", minimum=0.0, below=1.0)


DEFAULTS: dict[str, Any] = {
    "data": "digits",
    "optimizer": "adamw",
    "lr": 2e-3,
    "schedule": "cosine",
    "batch-size": 64,
    "epochs": 40,
    "dropout": 0.3,
}


def build(options: Options, schema: Schema, dtype: Any = np.float32) -> Model:
    """Linear layers of `options.hidden` widths, and one of the data's outputs. UserError for text."""
    require("mlp", schema, ("classes", "values"), "choose --data digits, or --model gpt")
    sizes = [math.prod(schema.inputs), *widths("--hidden", options.hidden), schema.outputs]
    layers: list[Layer] = [Flatten()] if len(schema.inputs) > 1 else []
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        if i:
            layers.append(ACTIVATIONS[options.activation]())
            layers += [Dropout(options.dropout)] if options.dropout else []
        layers.append(
            Linear(f"layers.{i}", inputs, outputs, he_uniform(inputs) if i < len(sizes) - 2 else None)
        )
    return Model(layers, loss_for(schema), dtype)
