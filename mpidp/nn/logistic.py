"""The logistic loss: two classes, one logit."""

from mpidp.arrays import Array
from mpidp.nn.model import Loss


class LogisticLoss(Loss):
    """loss_i = log(1 + exp(z_i)) - y_i z_i for one logit z (B, 1) and y (B,) in {0, 1}; dz = scale · (σ(z) - y).

    Written as max(z, 0) + log(1 + exp(-|z|)) - y z and σ(z) = (1 + tanh(z/2)) / 2, which overflow for no z.
    """

    def plan(self, shape, arena):
        self.xp = arena.xp
        self.work = arena.empty((shape[0],))

    def value(self, z: Array, y: Array) -> Array:
        xp, z, work = self.xp, z.reshape(-1), self.work
        xp.abs(z, out=work)
        xp.negative(work, out=work)
        xp.exp(work, out=work)
        xp.log1p(work, out=work)
        return (work + xp.maximum(z, 0) - y * z).sum(dtype="f8")

    def value_and_gradient(self, z: Array, y: Array, scale: float) -> tuple[Array, Array]:
        loss = self.value(z, y)
        xp, column = self.xp, z.reshape(-1)
        xp.multiply(column, 0.5, out=column)
        xp.tanh(column, out=column)
        xp.multiply(column, 0.5, out=column)
        xp.add(column, 0.5, out=column)
        column -= y
        column *= scale
        return loss, z

    def correct(self, z: Array, y: Array) -> Array:
        return ((z.reshape(-1) > 0) == (y > 0)).sum()
