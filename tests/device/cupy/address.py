"""Addresses of device memory, which know what they are part of."""

import threading
from collections import deque

import numpy as np


class Address(int):
    """Where device memory begins, and of which allocation it is part: that is `memory`, [begin, end) in bytes."""

    @classmethod
    def of(cls, array):
        found, whole = cls(array._host.ctypes.data), array._host
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        found.memory = array._memory
        found.begin, found.end = np.lib.array_utils.byte_bounds(whole)
        _asked.__dict__.setdefault("last", deque(maxlen=16)).append(found)
        return found

    @classmethod
    def known(cls, number: int) -> "Address":
        """What a library is given as a bare number, as this thread has asked for it just before."""
        return next(one for one in reversed(_asked.last) if one == number)


_asked = threading.local()


class Pointer:
    """Where device memory begins."""

    def __init__(self, ptr: int):
        self.ptr = ptr
