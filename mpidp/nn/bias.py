"""A bias alone: for a convolution whose output is pooled first, when there is less left to add it to."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer, Parameter, constant


class Bias(Layer):
    """y = x + b for x (..., channels), written over x; db = Σ dy over all but the last axis, dx = dy."""

    def __init__(self, name: str, channels: int):
        self.bias = Parameter(f"{name}.bias", (channels,), constant(0.0))

    def parameters(self):
        return [self.bias]

    def plan(self, shape, arena):
        self.kernels = kernels_for(arena.xp)
        self.rows = (math.prod(shape[:-1]), shape[-1])
        self.work = self.kernels.sums_workspace(arena, *self.rows)
        return shape

    def forward(self, x: Array) -> Array:
        self.kernels.add_bias(x.reshape(self.rows), self.bias.value)
        return x

    def backward(self, dy: Array) -> Array:
        self.kernels.column_sums(dy.reshape(self.rows), self.bias.grad, self.work)
        return dy
