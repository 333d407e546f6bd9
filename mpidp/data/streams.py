"""Random orders that depend on a seed and a place alone: the same on every rank, machine and NumPy version."""

import numpy as np

_WORD = 2**64


def generator(seed: int, *place: int) -> np.random.Generator:
    """A generator of its own for every (seed, place): Philox-4x64-10 with key (seed, 0) and the place in its counter.

    A place is up to three integers. Philox is counter-based: no state is shared or skipped, so that a worker
    draws its own part alone and gets the bits that one process would draw for it (Salmon et al. 2011,
    doi:10.1145/2063384.2063405). Each place has 2⁶⁴ blocks of its own.
    """
    counter = [0, *(p % _WORD for p in place), *[0] * (3 - len(place))]
    key = [seed % _WORD, seed // _WORD % _WORD]
    bits = np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(key, np.uint64))
    return np.random.Generator(bits)


def permutation(n: int, seed: int, *place: int) -> np.ndarray:
    """A random order of 0 … n-1 (int64) that is a function of (n, seed, place) alone.

    Sorts n random words whose low ⌈log₂ n⌉ bits are replaced by the index: no two are equal, so that every
    sorting algorithm gives the same order. NumPy keeps the words of a bit generator over versions, and not
    the draws of `Generator` (NEP 19).
    """
    if n < 2:
        return np.arange(n)
    mask = np.uint64((1 << max(n - 1, 0).bit_length()) - 1)
    keys = generator(seed, *place).bit_generator.random_raw(n)
    keys &= ~mask
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    keys &= mask
    return keys.astype(np.int64)
