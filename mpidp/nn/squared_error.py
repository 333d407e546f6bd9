"""Mean squared error."""

from mpidp.arrays import Array
from mpidp.nn.model import Loss


class MeanSquaredError(Loss):
    """loss_i = mean over the K outputs of (z_ik - y_ik)², for z and y (B, K); dz = scale · 2 (z - y) / K, over z."""

    def plan(self, shape, arena):
        self.xp = arena.xp
        self.shape = shape

    def value(self, z: Array, y: Array) -> Array:
        self.xp.subtract(z, y.reshape(self.shape), out=z)
        flat = z.reshape(-1)
        return self.xp.dot(flat, flat) / self.shape[-1]

    def value_and_gradient(self, z: Array, y: Array, scale: float) -> tuple[Array, Array]:
        loss = self.value(z, y)
        self.xp.multiply(z, 2 * scale / self.shape[-1], out=z)
        return loss, z
