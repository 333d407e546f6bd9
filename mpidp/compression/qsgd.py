"""QSGD: few levels, drawn so that their mean is the value."""

from dataclasses import dataclass

from mpidp.compression.codec import CHUNK, BlockCodec, BlockOptions
from mpidp.options import option


@dataclass
class QSGDOptions(BlockOptions):
    block: int = option(
        64, "elements that share one scale of 4 bytes (a multiple of 8)", minimum=8, maximum=CHUNK
    )
    levels: int = option(
        15, "s: a value is 0 or ± one of so many shares of its block's norm", minimum=1, maximum=127
    )


class QSGD(BlockCodec):
    """x_i of a block of B elements travels as ‖x‖ sign(x_i) ℓ_i / s, ℓ_i in 0 .. s drawn so that E[decoded] = x_i.

    ℓ_i is one of the two whole numbers next to s |x_i| / ‖x‖, the upper one with the probability of the fraction.
    Wire: b n / 8 + 4 ⌈n / B⌉ bytes with b = ⌈lg(2 s + 1)⌉ bits, in b planes. Unbiased; variance ≤
    min(B / s², √B / s) ‖x‖². Where that is more than ‖x‖² error feedback may add up errors without end: then leave it
    out, as the paper does.
    Source: Alistarh et al. 2017, arXiv 1610.02132 (with its norm for each bucket, and fixed-size codes for Elias').
    """

    Options = QSGDOptions

    def __init__(self, options, xp):
        super().__init__(options, xp)
        self.bits = (2 * options.levels).bit_length()

    def code_bytes(self, n):
        return self.bits * -(-n // 8)

    def draws(self, turn):
        return turn.draws(self.xp)

    def scales(self, x):
        return self.xp.sqrt((x * x).sum(axis=1))

    def codes(self, x, scale, draws):
        levels = self.options.levels
        share = levels / self.xp.where(scale > 0, scale, 1)
        drawn = draws.random(x.shape, dtype=self.xp.float32)
        drawn += x * share.astype(x.dtype)
        return (self.xp.clip(self.xp.floor(drawn), -levels, levels) + levels).astype(self.xp.uint8)

    def values(self, codes, scale, out):
        self.xp.subtract(codes, self.options.levels, out=out, dtype=out.dtype)
        out *= scale / self.options.levels

    def write(self, memory, a, b, codes):
        plane = len(memory) // self.bits
        for bit in range(self.bits):
            start = bit * plane
            memory[start + a // 8 : start + -(-b // 8)] = self.xp.packbits(codes >> bit & 1)

    def read(self, memory, a, b):
        plane = len(memory) // self.bits
        codes = self.xp.zeros(b - a, self.xp.uint8)
        for bit in range(self.bits):
            start = bit * plane
            ones = self.xp.unpackbits(memory[start + a // 8 : start + -(-b // 8)])[: b - a]
            codes |= ones << bit
        return codes
