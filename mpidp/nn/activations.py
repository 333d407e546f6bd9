"""GELU (Hendrycks, Gimpel 2016, arXiv:1606.08415), in the tanh form that GPT-2 uses."""

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer


class GELU(Layer):
    """y = ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), written over x; forward also writes dy/dx, so dx = dy · slope.

    The layer before it must not need its output again (Linear does not).
    """

    def plan(self, shape, arena):
        self.kernels = kernels_for(arena.xp)
        self.slope = arena.empty(shape)
        self.work = self.kernels.workspace(arena, 1)
        return shape

    def forward(self, x: Array) -> Array:
        flat = x.reshape(-1)
        self.kernels.gelu(flat, flat, self.slope.reshape(-1) if self.training else None, self.work)
        return x

    def backward(self, dy: Array) -> Array:
        dy *= self.slope
        return dy
