"""Stochastic gradient descent, with momentum (Polyak 1964) and Nesterov's form of it (Sutskever et al., ICML 2013)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpidp.arrays import Array
from mpidp.errors import UserError
from mpidp.nn.layer import Parameter
from mpidp.optim.optimizer import Optimizer
from mpidp.options import option


@dataclass
class SGDOptions:
    """μ, its form, and decay."""

    momentum: float = option(0.0, "share of the last update that is kept", minimum=0, below=1)
    nesterov: bool = option(False, "look ahead along the momentum (needs momentum above 0)")
    weight_decay: float = option(
        0.0, "added to the gradient as weight_decay * weight, for matrices", minimum=0
    )


def sgd_reference(p, g, buf, lr, options, decay):
    """One step written plainly, PyTorch's definition; `decay` is 1 where weight decay applies, else 0."""
    g = g + options.weight_decay * decay * p
    buf[:] = options.momentum * buf + g
    p -= lr * (g + options.momentum * buf if options.nesterov else buf)


class SGD(Optimizer):
    """buf ← μ·buf + g; p ← p − lr·buf, or with Nesterov p ← p − lr·(g + μ·buf); g includes weight_decay·p."""

    Options = SGDOptions
    scratch_count = 2

    def __init__(self, options: SGDOptions, parameters: Sequence[Parameter], lo: int, hi: int, like: Array):
        if options.nesterov and not options.momentum:
            raise UserError(
                "--nesterov needs a momentum above 0: give --momentum (0.9, say), or leave --nesterov out"
            )
        self.state_names = ("momentum",) if options.momentum else ()
        super().__init__(options, parameters, lo, hi, like)
        # Scalars as 0-d arrays of the right type: half the cost of a call with a Python float.
        self._mu = np.array(options.momentum, self.dtype)
        self._decay = np.array(options.weight_decay, self.dtype)
        self._rate, self._ahead, self._scale, self._keep = (np.empty((), self.dtype) for _ in range(4))

    @classmethod
    def state_vectors(cls, options: SGDOptions) -> int:
        return 1 if options.momentum else 0

    def step(
        self, params: Array, grads: Array, lo: int, lr: float, t: int, scale: float | Array = 1.0
    ) -> None:
        if self.on_device:
            from mpidp.optim import cupy_kernels

            cupy_kernels.sgd(self, params, grads, lo, lr, scale)
        elif self.options.momentum:
            self._step_momentum(params, grads, lo, lr, t, scale)
        else:
            self._step_plain(params, grads, lo, lr, scale)

    def _step_plain(self, params: Array, grads: Array, lo: int, lr: float, scale: float) -> None:
        rate, keep = self._rate, self._keep
        rate[()] = lr * scale
        keep[()] = 1 - lr * self.options.weight_decay
        for block in self._blocks(lo, len(params)):
            p, g = params[block.part], grads[block.part]
            u = block.scratch[0]
            for run in block.decay:
                np.multiply(p[run], keep, p[run])
            np.multiply(g, rate, u)
            np.subtract(p, u, p)

    def _step_momentum(self, params: Array, grads: Array, lo: int, lr: float, t: int, scale: float) -> None:
        rate, mu = self._rate, self._mu
        rate[()] = lr
        self._ahead[()] = lr * self.options.momentum
        self._scale[()] = scale
        for block in self._blocks(lo, len(params)):
            p, g = params[block.part], grads[block.part]
            (buf,), (u, w) = block.state, block.scratch
            if scale != 1 or block.decay:
                np.multiply(g, self._scale, u)
                g = u
                for run in block.decay:
                    np.multiply(p[run], self._decay, w[run])
                    np.add(u[run], w[run], u[run])
            np.multiply(buf, mu, buf)
            np.add(buf, g, buf)
            if self.options.nesterov:
                np.multiply(buf, self._ahead, w)
                np.subtract(p, w, p)
                np.multiply(g, rate, w)
            else:
                np.multiply(buf, rate, w)
            np.subtract(p, w, p)
            self._drop_tiny(block, t)
