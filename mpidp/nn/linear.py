"""The linear (dense, fully connected) layer."""

import math

from mpidp.arrays import Array
from mpidp.nn.layer import Initialiser, Layer, Parameter, constant, uniform


class Linear(Layer):
    """y = x W + b for x (..., inputs), W (inputs, outputs), b (outputs).

    dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy over all rows. W starts from `weight` (default U(±1/√inputs)), b from `bias_start`
    (default 0). Layers of one `share` tag write dx to the same memory: never two in a row.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        weight: Initialiser | None = None,
        bias: bool = True,
        bias_start: Initialiser | None = None,
        share: str | None = None,
    ):
        self.share = share
        self.weight = Parameter(f"{name}.weight", (inputs, outputs), weight or uniform(1 / math.sqrt(inputs)))
        self.bias = Parameter(f"{name}.bias", (outputs,), bias_start or constant(0.0)) if bias else None

    def parameters(self):
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def bind(self):
        self.weight_t = self.weight.value.T

    def plan(self, shape, arena):
        rows, (inputs, outputs) = math.prod(shape[:-1]), self.weight.shape
        if shape[-1] != inputs:
            raise ValueError(f"{self.weight.name}: takes {inputs} columns, got an input of shape {shape}")
        self.xp = arena.xp
        self.rows = (rows, inputs)
        self.y = arena.empty((*shape[:-1], outputs))
        self.y_rows = self.y.reshape(rows, outputs)
        self.dx = None
        if self.input_gradient:
            self.dx = arena.scratch(self.share, shape) if self.share else arena.empty(shape)
        self.ones = arena.ones(rows)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.x = x.reshape(self.rows)
        self.xp.matmul(self.x, self.weight.value, out=self.y_rows)
        if self.bias is not None:
            self.y_rows += self.bias.value
        return self.y

    def backward(self, dy: Array) -> Array:
        dy = dy.reshape(self.y_rows.shape)
        self.xp.matmul(self.x.T, dy, out=self.weight.grad)
        if self.bias is not None:
            self.xp.matmul(self.ones, dy, out=self.bias.grad)
        if self.dx is None:
            return None
        self.xp.matmul(dy, self.weight_t, out=self.dx.reshape(self.rows))
        return self.dx
