"""Optimizers that step any slice of a flat vector in place, learning-rate schedules, and clipping.

A new optimizer is a subclass of `Optimizer` in its own file and one line in OPTIMIZERS.
"""

from mpidp.optim.adamw import AdamW
from mpidp.optim.clipping import clip_factor, clip_scale, squared_norm
from mpidp.optim.optimizer import Optimizer
from mpidp.optim.schedules import Constant, Cosine
from mpidp.optim.sgd import SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,  # stochastic gradient descent, momentum, Nesterov
    "adamw": AdamW,  # Adam with decoupled weight decay
}

SCHEDULES: dict[str, type[Constant] | type[Cosine]] = {
    "constant": Constant,  # warm-up, then lr
    "cosine": Cosine,  # warm-up, then half a cosine down to a share of lr
}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "AdamW",
    "Optimizer",
    "clip_factor",
    "clip_scale",
    "squared_norm",
]
