"""Layer normalisation (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer, Parameter, constant


class LayerNorm(Layer):
    """y = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), mean and variance over the last axis of x (..., C).

    dx = (g - mean(g) - x̂ mean(g · x̂)) / √(var + eps) with g = gain · dy; dgain = Σ dy · x̂, dbias = Σ dy over all
    rows. branch: it begins a branch of a residual stream, and its backward adds dx to `onto`, the stream's gradient.
    narrow: y and dy are of the type that products take as it is, where there is one (`Products.narrow`).
    """

    def __init__(self, name: str, width: int, eps: float = 1e-5, branch: bool = False, narrow: bool = False):
        self.gain = Parameter(f"{name}.weight", (width,), constant(1.0))
        self.offset = Parameter(f"{name}.bias", (width,), constant(0.0))
        self.eps = eps
        self.branch, self.narrow = branch, narrow

    def parameters(self):
        return [self.gain, self.offset]

    def plan(self, shape, arena):
        self.kernels = kernels_for(arena.xp)
        self.rows = (math.prod(shape[:-1]), shape[-1])
        kind = arena.products.narrow if self.narrow else None
        self.y, self.xhat = arena.empty(shape, kind), arena.empty(self.rows, kind)
        self.rstd = arena.empty(self.rows[:1])
        self.dx = None if self.branch else arena.empty(shape)
        self.work = self.kernels.workspace(arena, shape[-1])
        return shape

    def forward(self, x: Array) -> Array:
        self.kernels.layer_norm(
            x.reshape(self.rows),
            self.gain.value,
            self.offset.value,
            self.eps,
            self.y.reshape(self.rows),
            self.xhat,
            self.rstd,
            self.work,
        )
        return self.y

    def backward(self, dy: Array, onto: Array = None) -> Array:
        dx = self.dx if onto is None else onto
        self.kernels.layer_norm_backward(
            dy.reshape(self.rows),
            self.xhat,
            self.rstd,
            self.gain.value,
            self.gain.grad,
            self.offset.grad,
            dx.reshape(self.rows),
            self.work,
            onto is not None,
        )
        return dx
