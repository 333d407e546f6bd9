"""One bit an element: the sign, with the mean magnitude of its block."""

from mpidp.compression.codec import BlockCodec


class OneBit(BlockCodec):
    """A block x of B elements travels as sign(x), a bit each, and the mean of |x|.

    Wire: n / 8 + 4 ⌈n / B⌉ bytes. Biased, and not small: it works by error feedback alone, which is on both sides: a
    rank keeps the error of what it sends to a chunk's owner, and the owner that of the sum that it hands out. Only a
    rank's own contribution is encoded, never a sum on its way, so it takes a route by which contributions go straight
    to their owner.
    Source: Seide et al. 2014, "1-Bit Stochastic Gradient Descent", Interspeech; with this scale Karimireddy et al.
    2019, arXiv 1901.09847; it is the compressor of 1-bit Adam (Tang et al. 2021, 2102.02888).
    """

    hops = False

    def code_bytes(self, n):
        return -(-n // 8)

    def scales(self, x):
        return self.xp.abs(x).mean(axis=1)

    def codes(self, x, scale, draws):
        return x >= 0

    def values(self, codes, scale, out):
        self.xp.multiply(codes, 2 * scale, out=out)
        out -= scale

    def write(self, memory, a, b, codes):
        memory[a // 8 : -(-b // 8)] = self.xp.packbits(codes)

    def read(self, memory, a, b):
        return self.xp.unpackbits(memory[a // 8 : -(-b // 8)])[: b - a]
