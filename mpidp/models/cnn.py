"""A small convolutional network after LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, doi:10.1109/5.726791)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.data.schema import Schema
from mpidp.errors import UserError
from mpidp.models.common import he_uniform, loss_for, require, widths
from mpidp.nn.bias import Bias
from mpidp.nn.conv2d import Conv2d
from mpidp.nn.dropout import Dropout
from mpidp.nn.flatten import Flatten
from mpidp.nn.layer import Layer
from mpidp.nn.linear import Linear
from mpidp.nn.maxpool import MaxPool2d
from mpidp.nn.model import Model
from mpidp.nn.relu import ReLU
from mpidp.options import option

KERNEL, POOL = 3, 2


@dataclass
class Options:
    """The widths of its layers."""

    channels: str = option(
        "16,32", "channels of the convolutions, with commas between them", metavar="N,N,..."
    )
    hidden: str = option("", "widths of dense layers between them and the outputs", metavar="N,N,...")
    dropout: float = option(
        0.0, "probability of dropping an element before each dense layer", minimum=0.0, below=1.0
    )


DEFAULTS: dict[str, Any] = {
    "data": "digits",
    "optimizer": "adamw",
    "lr": 4e-3,
    "schedule": "cosine",
    "batch-size": 64,
    "epochs": 60,
    "dropout": 0.5,
}


def build(options: Options, schema: Schema, dtype: Any = np.float32) -> Model:
    """Per convolution: 3 x 3 with padding 1, 2 x 2 maxima, bias, ReLU; then dense layers. UserError unless images.

    The bias and ReLU, which keep order, come after the maxima: the same values from a quarter of the work.
    """
    require("cnn", schema, ("classes", "values"), "choose --data digits, or --model gpt")
    if len(schema.inputs) != 3:
        raise UserError(
            f"--model cnn takes images, but a sample of this data is {schema.inputs[0]} numbers: "
            "choose --model mlp"
        )
    height, width, inputs = schema.inputs
    channels = widths("--channels", options.channels)
    if min(height, width) < POOL ** len(channels):
        raise UserError(
            f"images of {height} x {width} cannot be halved {len(channels)} times: "
            f"give fewer --channels than {options.channels}"
        )
    layers: list[Layer] = []
    for i, outputs in enumerate(channels):
        weight = he_uniform(KERNEL * KERNEL * inputs)
        layers.append(
            Conv2d(
                f"conv.{i}",
                inputs,
                outputs,
                KERNEL,
                padding=KERNEL // 2,
                weight=weight,
                bias=False,
                pool=POOL,
            )
        )
        layers += [MaxPool2d(POOL), Bias(f"conv.{i}", outputs), ReLU()]
        inputs, height, width = outputs, height // POOL, width // POOL
    layers.append(Flatten())
    sizes = [height * width * inputs, *widths("--hidden", options.hidden), schema.outputs]
    for i, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers += [ReLU()] if i else []
        layers += [Dropout(options.dropout)] if options.dropout else []
        layers.append(Linear(f"dense.{i}", before, after, he_uniform(before) if i < len(sizes) - 2 else None))
    return Model(layers, loss_for(schema), dtype)
