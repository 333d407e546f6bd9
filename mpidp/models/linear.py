"""Linear regression: y = x W + b, mean squared error."""

import math
from typing import Any

import numpy as np

from mpidp.data.schema import Schema
from mpidp.models.common import require
from mpidp.nn.flatten import Flatten
from mpidp.nn.layer import Layer, constant
from mpidp.nn.linear import Linear
from mpidp.nn.model import Model
from mpidp.nn.squared_error import MeanSquaredError
from mpidp.options import NoOptions

Options = NoOptions

DEFAULTS: dict[str, Any] = {
    "data": "synthetic-regression",
    "optimizer": "sgd",
    "lr": 0.01,
    "schedule": "constant",
    "batch-size": 100,
    "epochs": 100,
}


def build(options: NoOptions, schema: Schema, dtype: Any = np.float32) -> Model:
    """`weight` (F, K) and `bias` (K), from 0; UserError for data without real targets."""
    require(
        "linear", schema, ("values",), "choose --data synthetic-regression or diabetes, or another --model"
    )
    layers: list[Layer] = [Flatten()] if len(schema.inputs) > 1 else []
    linear = Linear("linear", math.prod(schema.inputs), schema.outputs, constant(0.0))
    linear.weight.name, linear.bias.name = "weight", "bias"  # as in `Data.truth`
    return Model([*layers, linear], MeanSquaredError(), dtype)
