"""Momentum on the rank where a gradient is computed, for encodings that send what has gathered there."""

from typing import Any, ClassVar

from mpidp.arrays import Array, zeros
from mpidp.compression.coded import Coded
from mpidp.optim.optimizer import TINY, TINY_EVERY
from mpidp.takeover import Added


class LocalMomentum(Coded):
    """u ← μ u + g on every rank with its own gradient g; what is encoded is u. μ: the option `local_momentum`."""

    rules: ClassVar = Coded.rules | {"momentum": Added}

    def __init__(self, place: Any, codec: Any, feedback: bool):
        super().__init__(place, codec, feedback)
        self.momentum: Array = zeros(place.xp, place.n, place.dtype)

    @classmethod
    def extra_vectors(cls, options):
        return 1

    def begin(self, buffer, bounds, start=0, lane=0):
        self.gather(buffer, self.momentum[start : start + buffer.size], self.turns.get(start, 0) + 1)
        return super().begin(buffer, bounds, start, lane)

    def gather(self, gradient: Array, momentum: Array, t: int) -> None:
        """gradient ← momentum ← μ momentum + gradient, for the t-th time."""
        momentum *= self.options.local_momentum
        momentum += gradient
        if t % TINY_EVERY == 0:  # what gets no gradient does not shrink on into denormal numbers
            momentum *= self.xp.abs(momentum) > TINY
        gradient[...] = momentum

    def state(self):
        return super().state() | {"momentum": self.momentum}

    def load_state(self, state):
        super().load_state(state)
        if "momentum" in state:  # a server takes over none of what workers had
            self.momentum[...] = self.xp.asarray(state["momentum"])
