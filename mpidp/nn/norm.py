"""Layer normalisation (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer, Parameter, constant


class LayerNorm(Layer):
    """y = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), mean and variance over the last axis of x (..., C).

    dx = (g - mean(g) - x̂ mean(g · x̂)) / √(var + eps) with g = gain · dy; dgain = Σ dy · x̂, dbias = Σ dy over all
    rows. Layers of one `share` tag write dx to the same memory: never two in a row.
    """

    def __init__(self, name: str, width: int, eps: float = 1e-5, share: str | None = None):
        self.gain = Parameter(f"{name}.weight", (width,), constant(1.0))
        self.offset = Parameter(f"{name}.bias", (width,), constant(0.0))
        self.eps = eps
        self.share = share

    def parameters(self):
        return [self.gain, self.offset]

    def plan(self, shape, arena):
        self.kernels = kernels_for(arena.xp)
        self.rows = (math.prod(shape[:-1]), shape[-1])
        self.y, self.xhat = arena.empty(shape), arena.empty(self.rows)
        self.rstd = arena.empty(self.rows[:1])
        self.dx = arena.scratch(self.share, shape) if self.share else arena.empty(shape)
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

    def backward(self, dy: Array) -> Array:
        self.kernels.layer_norm_backward(
            dy.reshape(self.rows),
            self.xhat,
            self.rstd,
            self.gain.value,
            self.gain.grad,
            self.offset.grad,
            self.dx.reshape(self.rows),
            self.work,
        )
        return self.dx
