"""Dropout (Srivastava et al. 2014, JMLR 15:1929) by a counter: no generator's state, one mask everywhere."""

from collections.abc import Sequence

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Layer


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195), on uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample_keys(seed: int, step: int, layer: int, slots: Sequence[int] | np.ndarray) -> np.ndarray:
    """One 64-bit key a sample, from integers alone."""
    key = np.zeros(1, np.uint64)
    for word in (seed, step, layer):
        key = _mix(key ^ np.uint64(word % 2**64))
    return _mix(key ^ np.asarray(slots).astype(np.uint64))


class Dropout(Layer):
    """y = x ∘ m / (1-p), where m is 0 with probability p: a hash of (seed, step, slot, layer, element) alone.

    The slot is the sample's place in the *global* batch, so that the mask is the same whichever rank, micro-batch or
    array module works on the sample. Outside training y = x.
    """

    index = 0  # which of the model's dropout layers; set by Model

    def __init__(self, p: float):
        self.p = p

    def draw(self, key: tuple[int, int], slots: Sequence[int] | np.ndarray) -> None:
        """Choose the masks of the next batch, for which this is planned: key = (seed, step), each sample's slot."""
        keys = sample_keys(*key, self.index, slots)
        words = np.stack([keys | np.uint64(1), keys >> np.uint64(32)]).astype(np.uint32)
        if self.xp is np:
            self.words[...] = words
        else:
            self.words.set(words, stream=self.xp.cuda.get_current_stream())

    def plan(self, shape, arena):
        count = int(np.prod(shape[1:]))
        self.kernels = kernels_for(arena.xp)
        self.xp = arena.xp
        self.words = arena.empty((2, shape[0]), np.uint32)  # of each sample: an odd number, and any
        self.mask = arena.empty((shape[0], count))
        self.mask_as_x = self.mask.reshape(shape)
        self.y = arena.empty(shape)
        self.work = arena.scratch("dropout", (2, shape[0], count), np.uint32)
        return shape

    def forward(self, x: Array) -> Array:
        if not self.training or self.p == 0:
            return x
        multipliers, offsets = self.words  # odd: a bijection mod 2³²
        self.kernels.dropout_mask(multipliers, offsets, self.p, self.mask, self.work)
        self.xp.multiply(x, self.mask_as_x, self.y)
        return self.y

    def backward(self, dy: Array) -> Array:
        if self.p == 0:
            return dy
        self.xp.multiply(dy, self.mask_as_x, self.y)  # not over dy, which may be a residual stream's gradient
        return self.y
