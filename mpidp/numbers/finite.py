"""Is every number of a vector finite?"""

import math

from mpidp.arrays import Array, array_module, number

BLOCK = 1 << 20  # elements that are looked at one by one at a time


def finite(vector: Array) -> bool:
    """Whether no element of a flat vector is infinite or NaN.

    Its square says so in one pass, which for a gradient that has just been written reads the cache; only where the
    square itself overflows are elements looked at.
    """
    if math.isfinite(number(vector.dot(vector))):
        return True
    xp = array_module(vector)
    return all(number(xp.isfinite(vector[lo : lo + BLOCK]).all()) == 1 for lo in range(0, len(vector), BLOCK))
