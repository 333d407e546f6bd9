"""Random orders that depend on a seed and a place alone: the same on every rank, machine and NumPy version."""

import numpy as np

_WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15
ROUNDS = 8


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


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser of z + golden ratio · 2⁶⁴ (uint64, wrapping)."""
    z = z + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Orders:
    """Random orders of 0 … n-1 for several n, of which any place is computed, and nothing is held.

    `sizes`: the n, all at most `largest`, of which, as of (seed, place), the orders are a function; `last`, where it is
    given, is the last number of each one's place. A Feistel network (Luby and Rackoff 1988, doi:10.1137/0217022) of
    `ROUNDS` rounds, whose halves may differ by a bit, permutes [0, 2ᵇ) ⊇ [0, n); what falls outside is permuted again
    until it is inside (cycle walking: Black and Rogaway 2002, doi:10.1007/3-540-45760-7_9), on average less than twice.
    """

    def __init__(
        self, sizes: np.ndarray, largest: int, seed: int, place: int, last: np.ndarray | None = None
    ):
        places = [(place,)] if last is None else [(place, int(j)) for j in last]
        draws = [generator(seed, *each).bit_generator.random_raw(ROUNDS) for each in places]
        self.sizes, self.keys = sizes.astype(np.uint64), np.array(draws, np.uint64).reshape(-1, ROUNDS).T
        bits = max(2, (largest - 1).bit_length())
        self.low = np.uint64(bits // 2)
        self.masks = (np.uint64((1 << bits // 2) - 1), np.uint64((1 << bits - bits // 2) - 1))

    def at(self, places: np.ndarray | int) -> np.ndarray:
        """What stands at a place of each order, or at places of the one order that there is (int64).

        At places beyond an order's end there is a number, and no meaning.
        """
        return self._walk(places, range(ROUNDS))

    def places(self, numbers: np.ndarray | int) -> np.ndarray:
        """Where in each order a number stands, or numbers in the one order that there is: the inverse of `at`."""
        return self._walk(numbers, range(ROUNDS)[::-1])

    def _walk(self, start: np.ndarray | int, turns: range) -> np.ndarray:
        wanted = np.asarray(start, np.uint64)
        sizes, found, wanted = np.broadcast_arrays(self.sizes, wanted, wanted)
        keys = np.broadcast_to(
            self.keys.reshape(ROUNDS, *[1] * (wanted.ndim - 1), -1), (ROUNDS, *wanted.shape)
        )
        found, outside = found.copy(), wanted < sizes
        while outside.any():
            found[outside] = self._permuted(found[outside], keys[:, outside], turns)
            outside &= found >= sizes
        return found.astype(np.int64)

    def _permuted(self, x: np.ndarray, keys: np.ndarray, turns: range) -> np.ndarray:
        halves = [x & self.masks[0], x >> self.low]
        for turn in turns:
            one, other = turn % 2, 1 - turn % 2
            halves[one] = halves[one] ^ (mix(halves[other] + keys[turn]) & self.masks[one])
        return halves[0] | (halves[1] << self.low)
