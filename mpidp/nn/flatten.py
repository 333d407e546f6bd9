"""From images to rows."""

import math

from mpidp.arrays import Array
from mpidp.nn.layer import Layer


class Flatten(Layer):
    """y (B, n) = x (B, ...) with n the product of its other axes; no element moves."""

    def plan(self, shape, arena):
        self.shape = shape
        return (shape[0], math.prod(shape[1:]))

    def forward(self, x: Array) -> Array:
        return x.reshape(self.shape[0], -1)

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self.shape)
