"""The linear (dense, fully connected) layer."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Initialiser, Layer, Parameter, constant, uniform


class Linear(Layer):
    """y = x W + b for x (..., inputs), W (inputs, outputs), b (outputs).

    dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy over all rows. W starts from `weight` (default U(±1/√inputs)), b from `bias_start`
    (default 0). Layers of one `share` tag write dx to the same memory: never two in a row.
    adds_bias: False where whoever takes y adds b to it (db is made here all the same).
    narrow_input, narrow_output: whether x and dx, or y, are of the type that products take as it is, where there is one
    (`Products.narrow`), for those beside it that know such arrays. dy may be of either type.
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
        adds_bias: bool = True,
        narrow_input: bool = False,
        narrow_output: bool = False,
    ):
        self.share, self.adds_bias = share, adds_bias and bias
        self.narrow_input, self.narrow_output = narrow_input, narrow_output
        self.weight = Parameter(f"{name}.weight", (inputs, outputs), weight or uniform(1 / math.sqrt(inputs)))
        self.bias = Parameter(f"{name}.bias", (outputs,), bias_start or constant(0.0)) if bias else None

    def parameters(self):
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def plan(self, shape, arena):
        rows, (inputs, outputs) = math.prod(shape[:-1]), self.weight.shape
        if shape[-1] != inputs:
            raise ValueError(f"{self.weight.name}: takes {inputs} columns, got an input of shape {shape}")
        self.kernels, self.products = kernels_for(arena.xp), arena.products
        given, gives = (
            self.products.narrow if narrow else None for narrow in (self.narrow_input, self.narrow_output)
        )
        self.rows = (rows, inputs)
        self.x_memory = self.products.memory(arena, self.rows) if given is None else None
        self.dy_memory = self.products.memory(arena, (rows, outputs), "dy")
        self.y = arena.empty((*shape[:-1], outputs), gives)
        self.y_rows = self.y.reshape(rows, outputs)
        self.dx = None
        if self.input_gradient:
            self.dx = arena.scratch(self.share, shape, given) if self.share else arena.empty(shape, given)
        self.work = self.kernels.sums_workspace(arena, rows, outputs)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.x = self.products.take(x.reshape(self.rows), self.x_memory)
        self.products.matmul(self.x, self.weight.operand, self.y_rows)
        if self.adds_bias:
            self.kernels.add_bias(self.y_rows, self.bias.value)
        return self.y

    def backward(self, dy: Array) -> Array:
        dy = dy.reshape(self.y_rows.shape)
        if self.bias is not None:
            self.kernels.column_sums(dy, self.bias.grad, self.work)
        dy = self.products.take(dy, self.dy_memory)
        self.products.matmul(self.x.T, dy, self.weight.grad)
        if self.dx is None:
            return None
        self.tell(self)
        self.products.matmul(dy, self.weight.operand.T, self.dx.reshape(self.rows))
        return self.dx
