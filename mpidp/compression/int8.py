"""Whole numbers of 8 bits with a scale for each block."""

import numpy as np

from mpidp.compression.codec import BlockCodec

LARGEST = 127
TINY = float(np.finfo(np.float32).tiny)  # the inverse of a scale below it would overflow


class Int8(BlockCodec):
    """A block x of B elements travels as round(x / a) of 8 bits and a = max |x| / 127.

    Wire: n + 4 ⌈n / B⌉ bytes. Error ≤ max |x| / 254 for each element of the block.
    Source: Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning", arXiv 1511.04561 (for gradients in
    8 bits); scales by block as in Dettmers et al. 2022, arXiv 2110.02861.
    """

    def code_bytes(self, n):
        return n

    def scales(self, x):
        largest = self.xp.maximum(x.max(axis=1), -x.min(axis=1))
        return largest / LARGEST

    def codes(self, x, scale, draws):
        usable = scale >= TINY
        inverse = usable / self.xp.where(usable, scale, 1)
        scaled = self.xp.rint(x * inverse.astype(x.dtype))
        return scaled.astype(self.xp.int8)

    def values(self, codes, scale, out):
        self.xp.multiply(codes, scale, out=out)

    def write(self, memory, a, b, codes):
        memory[a:b] = codes.view(self.xp.uint8)

    def read(self, memory, a, b):
        return memory[a:b].view(self.xp.int8)
