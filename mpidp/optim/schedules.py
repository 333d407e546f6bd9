"""The learning rate as a function of the update's number t = 1, 2, ...: linear warm-up, then constant or a cosine."""

from dataclasses import dataclass
from math import cos, pi

from mpidp.options import option


@dataclass
class ConstantOptions:
    """How long it warms up."""

    warmup: int = option(0, "updates over which the learning rate rises linearly from 0", minimum=0)


@dataclass
class CosineOptions:
    """How long it warms up, and where it ends."""

    warmup: int = option(0, "updates over which the learning rate rises linearly from 0", minimum=0)
    final_lr: float = option(0.1, "learning rate at the last update, as a share of lr", minimum=0, maximum=1)


class Constant:
    """lr·t/warmup up to t = warmup, lr from then on."""

    Options = ConstantOptions

    def __init__(self, options: ConstantOptions, lr: float, steps: int):
        self.options, self.lr = options, lr

    def __call__(self, t: int) -> float:
        return self.lr * min(1.0, t / max(1, self.options.warmup))


class Cosine:
    """lr·t/warmup up to t = warmup, then half a cosine down to final_lr·lr at t = steps.

    Loshchilov & Hutter 2017, arXiv:1608.03983 (one cycle, no restart).
    """

    Options = CosineOptions

    def __init__(self, options: CosineOptions, lr: float, steps: int):
        self.options, self.lr, self.steps = options, lr, steps

    def __call__(self, t: int) -> float:
        warmup, final = self.options.warmup, self.options.final_lr
        if t <= warmup:
            return self.lr * t / warmup
        progress = min(1.0, (t - warmup) / max(1, self.steps - warmup))
        return self.lr * (final + (1 - final) * (1 + cos(pi * progress)) / 2)
