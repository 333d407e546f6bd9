"""Logistic regression: two classes, one logit z = x w + b."""

from typing import Any

import numpy as np

from mpidp.data.schema import Schema
from mpidp.errors import UserError
from mpidp.models.common import one_linear, require
from mpidp.nn.logistic import LogisticLoss
from mpidp.nn.model import Model
from mpidp.options import NoOptions

Options = NoOptions

DEFAULTS: dict[str, Any] = {
    "data": "breast-cancer",
    "optimizer": "sgd",
    "lr": 0.1,
    "schedule": "constant",
    "batch-size": 32,
    "epochs": 30,
}


def build(options: NoOptions, schema: Schema, dtype: Any = np.float32) -> Model:
    """`weight` (F, 1) and `bias` (1), from 0; UserError for anything but two classes."""
    require("logistic", schema, ("classes",), "choose --data breast-cancer, or another --model")
    if schema.outputs != 2:
        raise UserError(
            f"--model logistic tells 2 classes apart, but this data has {schema.outputs}: choose --model mlp"
        )
    return Model(one_linear(schema.inputs, 1), LogisticLoss(), dtype)
