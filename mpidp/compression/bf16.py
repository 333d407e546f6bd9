"""bfloat16: the upper half of a float32, 8 bits of significand and float32's range."""

import numpy as np

from mpidp.compression.codec import Codec, chunks
from mpidp.nn.kernels.products import pack


class Bf16(Codec):
    """x travels as the nearest bfloat16, ties to even.

    Wire: 2 n bytes. Relative error ≤ 2⁻⁸ at every size that a float32 has. NumPy has no such type: a payload holds the
    upper 16 bits as they are. Sums are made in the vector's own type.
    Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", arXiv 1905.12322.
    """

    def size(self, n):
        return 2 * n

    def encode(self, x, payload, turn):
        x, upper = x.astype(self.xp.float32, copy=False), payload[: 2 * len(x)].view(self.xp.uint16)
        if self.xp is np:
            return pack(x, upper)
        bits = x.view(self.xp.uint32)  # and what carries into the upper half, as in `pack`
        upper[...] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16

    def decode(self, payload, out):
        upper = payload[: 2 * len(out)].view(self.xp.uint16)
        for part in chunks(len(out)):
            out[part] = self.widened(upper[part])

    def add(self, payload, out):
        upper = payload[: 2 * len(out)].view(self.xp.uint16)
        for part in chunks(len(out)):
            out[part] += self.widened(upper[part])

    def widened(self, upper):
        """The float32s of which these are the upper halves."""
        bits = upper.astype(self.xp.uint32)
        bits <<= 16
        return bits.view(self.xp.float32)
