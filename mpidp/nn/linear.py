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

    def plan(self, shape, arena):
        rows, (inputs, outputs) = math.prod(shape[:-1]), self.weight.shape
        if shape[-1] != inputs:
            raise ValueError(f"{self.weight.name}: takes {inputs} columns, got an input of shape {shape}")
        self.xp, self.products = arena.xp, arena.products
        self.rows = (rows, inputs)
        self.x_memory = self.products.memory(arena, self.rows)
        self.weight_memory = self.products.memory(arena, self.weight.shape)
        self.dy_memory = self.products.memory(arena, (rows, outputs), "dy")
        self.y = arena.empty((*shape[:-1], outputs))
        self.y_rows = self.y.reshape(rows, outputs)
        self.dx = None
        if self.input_gradient:
            self.dx = arena.scratch(self.share, shape) if self.share else arena.empty(shape)
        self.ones = arena.ones(rows)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.x = self.products.take(x.reshape(self.rows), self.x_memory)
        self.w = self.products.take(self.weight.value, self.weight_memory)
        self.products.matmul(self.x, self.w, self.y_rows)
        if self.bias is not None:
            self.y_rows += self.bias.value
        return self.y

    def backward(self, dy: Array) -> Array:
        dy = dy.reshape(self.y_rows.shape)
        if self.bias is not None:
            self.xp.matmul(self.ones, dy, out=self.bias.grad)
        dy = self.products.take(dy, self.dy_memory)
        self.products.matmul(self.x.T, dy, self.weight.grad)
        if self.dx is None:
            return None
        self.tell(self)
        self.products.matmul(dy, self.w.T, self.dx.reshape(self.rows))
        return self.dx
