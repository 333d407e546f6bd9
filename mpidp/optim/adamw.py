"""AdamW: Adam (Kingma & Ba 2015, arXiv:1412.6980) with decoupled decay (Loshchilov & Hutter 2019, 1711.05101)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.layer import Parameter
from mpidp.optim.optimizer import Optimizer
from mpidp.options import option


@dataclass
class AdamWOptions:
    """β₁, β₂, ε and decay."""

    beta1: float = option(0.9, "memory of the mean gradient", minimum=0, below=1)
    beta2: float = option(0.95, "memory of the mean squared gradient", minimum=0, below=1)
    epsilon: float = option(1e-8, "added to the root of the mean square", above=0)
    weight_decay: float = option(
        0.1, "share lr * weight_decay of each matrix element lost at a step", minimum=0
    )


def adamw_reference(p, g, m, v, lr, t, options, decay):
    """One step written plainly, as the papers have it; `decay` is 1 where weight decay applies, else 0."""
    m[:] = options.beta1 * m + (1 - options.beta1) * g
    v[:] = options.beta2 * v + (1 - options.beta2) * g**2
    m_hat, v_hat = m / (1 - options.beta1**t), v / (1 - options.beta2**t)
    p -= lr * options.weight_decay * decay * p
    p -= lr * m_hat / (np.sqrt(v_hat) + options.epsilon)


class AdamW(Optimizer):
    """p ← (1 − lr·weight_decay)·p − lr·m̂ / (√v̂ + ε), as `adamw_reference`, in 11 passes over the elements.

    The state holds M = m / (1 − β₁) and V = v / (1 − β₂), which saves two passes: M ← β₁M + g, V ← β₂V + g².
    With k = √((1 − β₂) / (1 − β₂ᵗ)) then √v̂ = k√V, and the last term is c·M / (√V + ε/k), where
    c = lr·(1 − β₁) / (1 − β₁ᵗ) / k.

    freeze_after: V and k stay what they are after this update (1-bit Adam asks for it); None: never.
    """

    Options = AdamWOptions
    state_names = ("mean", "square")
    freeze_after: int | None = None

    def __init__(self, options: AdamWOptions, parameters: Sequence[Parameter], lo: int, hi: int, like: Array):
        super().__init__(options, parameters, lo, hi, like)
        # Scalars as 0-d arrays of the right type: half the cost of a call with a Python float.
        self._beta1 = np.array(options.beta1, self.dtype)
        self._beta2 = np.array(options.beta2, self.dtype)
        self._rate, self._floor, self._keep, self._scale = (np.empty((), self.dtype) for _ in range(4))

    def constants(self, lr: float, t: int) -> tuple[float, float, float]:
        """(c, ε/k, 1 − lr·weight_decay) for update t."""
        o = self.options
        settled = self.freeze_after if self.frozen(t) else t
        k = sqrt((1 - o.beta2) / (1 - o.beta2**settled))
        return lr * (1 - o.beta1) / (1 - o.beta1**t) / k, o.epsilon / k, 1 - lr * o.weight_decay

    def frozen(self, t: int) -> bool:
        """Whether update t leaves V alone."""
        return self.freeze_after is not None and t > self.freeze_after

    def step(
        self, params: Array, grads: Array, lo: int, lr: float, t: int, scale: float | Array = 1.0
    ) -> None:
        if self.on_device:
            from mpidp.optim import cupy_kernels

            return cupy_kernels.adamw(self, params, grads, lo, lr, t, scale)
        beta1, beta2, rate, floor, keep = self._beta1, self._beta2, self._rate, self._floor, self._keep
        rate[()], floor[()], keep[()] = self.constants(lr, t)
        self._scale[()] = scale
        frozen = self.frozen(t)
        for block in self._blocks(lo, len(params)):
            p, g = params[block.part], grads[block.part]
            (m, v), (u,) = block.state, block.scratch
            if scale != 1:
                g = np.multiply(g, self._scale, u)
            np.multiply(m, beta1, m)
            np.add(m, g, m)
            if not frozen:
                np.multiply(g, g, u)
                np.multiply(v, beta2, v)
                np.add(v, u, v)
            np.sqrt(v, u)
            np.add(u, floor, u)
            np.divide(m, u, u)
            np.multiply(u, rate, u)
            for run in block.decay:
                np.multiply(p[run], keep, p[run])
            np.subtract(p, u, p)
            self._drop_tiny(block, t)
