"""The rectifier."""

from mpidp.arrays import Array
from mpidp.nn.layer import Layer


class ReLU(Layer):
    """y = max(x, 0), written over x; dx = dy where y > 0, else 0, written over dy."""

    def plan(self, shape, arena):
        self.xp = arena.xp
        self.positive = arena.empty(shape, bool)
        return shape

    def forward(self, x: Array) -> Array:
        self.y = x
        return self.xp.maximum(x, 0, out=x)

    def backward(self, dy: Array) -> Array:
        self.xp.greater(self.y, 0, out=self.positive)
        return self.xp.multiply(dy, self.positive, out=dy)
