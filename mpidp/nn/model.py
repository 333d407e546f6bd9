"""A model: layers in a row, a loss at their end, two flat vectors under them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.layer import Layer, Parameter

Ready = Callable[[int, int], None]


class Loss:
    """The last stage: per-sample losses of predictions `z` against targets `y`.

    A sample is one row of the batch (for text: one sequence, whose loss is the mean over its T tokens).
    """

    def plan(self, shape, arena) -> None: ...

    def value(self, z: Array, y: Array) -> float:
        """Σ_i loss_i over the samples of the batch (not the mean: means are taken over the *global* batch)."""
        raise NotImplementedError

    def value_and_gradient(self, z: Array, y: Array, scale: float) -> tuple[float, Array]:
        """Σ_i loss_i, and dz = scale · d(Σ_i loss_i)/dz, which may be written over z."""
        raise NotImplementedError

    def correct(self, z: Array, y: Array) -> int | None:
        """How many predictions are right (for text: tokens/T, so a float); None where the notion is void."""
        return None


class Model:
    """Two flat vectors, `params` and `grads`, of `size` elements; every tensor is a view of them.

    layout: `parameters` in forward order, each `[lo, hi)`, one after another without gaps: backward completes
    gradients from the tail to the head.
    """

    def __init__(self, layers: Sequence[Layer], loss: Loss, dtype: Any = np.float32): ...

    parameters: list[Parameter]
    size: int
    params: Array
    grads: Array

    def bind(self, params: Array, grads: Array) -> None:
        """Place the model on these two contiguous flat vectors (NumPy or CuPy, of `size` elements)."""

    def initialise(self, seed: int) -> None:
        """Write the initial values into `params`: a function of the seed and each tensor's name alone."""

    def gradients(self, x: Array, y: Array, scale: float, ready: Ready | None = None, *,
                  key: tuple[int, int] = (0, 0), slots: Sequence[int] | None = None,
                  micro_batch: int | None = None) -> float:
        """Write grads = scale · d(Σ_i loss_i)/dparams for the samples of this batch; return Σ_i loss_i.

        Calls `ready(lo, hi)` as slices of `grads` become final, from the tail to the head, covering [0, size)
        exactly once. An empty batch gives zero gradients, loss 0, and one `ready(0, size)`.
        key = (seed, step) and the samples' `slots` in the global batch seed the dropout masks, so that they do not
        depend on which rank works on a sample. `micro_batch`: work on so many samples at a time (gradient accumulation).
        """

    def evaluate(self, x: Array, y: Array) -> tuple[float, float | None]:
        """(Σ_i loss_i, correct predictions or None) without dropout and without touching `grads`."""

    def predict(self, x: Array) -> Array:
        """The outputs before the loss, without dropout."""
