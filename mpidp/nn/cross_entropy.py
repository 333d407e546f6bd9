"""Softmax cross-entropy, fused with its gradient."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.model import Loss


class SoftmaxCrossEntropy(Loss):
    """loss = log Σ_j exp(z_j) - z_y for logits z (B, V) and classes y (B,), or z (B, T, V) and y (B, T).

    With T tokens a sample's loss is the mean over them, and its count of correct predictions is their share.
    dz = scale · (softmax(z) - onehot(y)) [/ T], written over z.
    """

    def plan(self, shape, arena):
        self.tokens = math.prod(shape[1:-1])
        self.rows = (shape[0] * self.tokens, shape[-1])
        self.kernels = kernels_for(arena.xp)
        self.losses = arena.empty((self.rows[0],))

    def value(self, z: Array, y: Array) -> Array:
        self.kernels.softmax_cross_entropy(z.reshape(self.rows), y.reshape(-1), self.losses)
        return self.losses.sum(dtype="f8") / self.tokens

    def value_and_gradient(self, z: Array, y: Array, scale: float) -> tuple[Array, Array]:
        self.kernels.softmax_cross_entropy(
            z.reshape(self.rows), y.reshape(-1), self.losses, scale / self.tokens
        )
        return self.losses.sum(dtype="f8") / self.tokens, z

    def correct(self, z: Array, y: Array) -> Array:
        return (z.argmax(axis=-1) == y).sum() / self.tokens
