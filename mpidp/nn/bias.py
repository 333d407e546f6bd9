"""A bias alone: for a convolution whose output is pooled first, when there is less left to add it to."""

import math

from mpidp.arrays import Array
from mpidp.nn.layer import Layer, Parameter, constant


class Bias(Layer):
    """y = x + b for x (..., channels), written over x; db = Σ dy over all but the last axis, dx = dy."""

    def __init__(self, name: str, channels: int):
        self.bias = Parameter(f"{name}.bias", (channels,), constant(0.0))

    def parameters(self):
        return [self.bias]

    def plan(self, shape, arena):
        self.xp = arena.xp
        self.rows = (math.prod(shape[:-1]), shape[-1])
        self.ones = arena.ones(self.rows[0])
        return shape

    def forward(self, x: Array) -> Array:
        return self.xp.add(x, self.bias.value, out=x)

    def backward(self, dy: Array) -> Array:
        self.xp.matmul(self.ones, dy.reshape(self.rows), out=self.bias.grad)
        return dy
