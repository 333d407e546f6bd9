"""GELU (Hendrycks, Gimpel 2016, arXiv:1606.08415), in the tanh form that GPT-2 uses."""

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer, Parameter


class GELU(Layer):
    """y = ½ v (1 + tanh(√(2/π) (v + 0.044715 v³))), v = x + bias: the bias of the layer before, where it left that out.

    dx = dy · (dy/dv), written over dy. The layer before must not need its output again, nor write to it until backward
    is done (Linear does neither). narrow: as Linear's.
    """

    def __init__(self, bias: Parameter | None = None, narrow: bool = False):
        self.bias, self.narrow = bias, narrow

    def plan(self, shape, arena):
        self.kernels = kernels_for(arena.xp)
        self.kept = arena.empty(shape, arena.products.narrow if self.narrow else None)
        self.work = self.kernels.workspace(arena, 1)
        return shape

    def forward(self, x: Array) -> Array:
        self.x, self.shift = x, None if self.bias is None else self.bias.value
        return self.kernels.gelu(x, self.shift, self.kept, self.training, self.work)

    def backward(self, dy: Array) -> Array:
        self.kernels.gelu_backward(dy, self.x, self.shift, self.kept, self.work)
        return dy
