"""Linear regression: y = x W + b, mean squared error."""

from typing import Any

import numpy as np

from mpidp.data.schema import Schema
from mpidp.models.common import one_linear, require
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
    return Model(one_linear(schema.inputs, schema.outputs), MeanSquaredError(), dtype)
