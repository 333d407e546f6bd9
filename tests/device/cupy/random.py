"""Draws: CuPy's generators differ from NumPy's, and so does what they draw."""

import numpy as _np
from cupy._array import wrapped


class _Generator:
    def __init__(self, seed):
        self.host = _np.random.default_rng(seed)

    def random(self, size=None, dtype=float, out=None):
        return wrapped(self.host.random(size, dtype))

    def integers(self, low, high=None, size=None, dtype=_np.int64, endpoint=False):
        return wrapped(self.host.integers(low, high, size, dtype, endpoint))

    def standard_normal(self, size=None, dtype=float, out=None):
        return wrapped(self.host.standard_normal(size, dtype))


def default_rng(seed=None):
    return _Generator(seed)
