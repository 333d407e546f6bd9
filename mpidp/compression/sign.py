"""signSGD with majority vote: one bit an element each way, and no magnitude at all."""

from dataclasses import dataclass

from mpidp.arrays import Array
from mpidp.compression.codec import Codec, chunks
from mpidp.compression.momentum import LocalMomentum
from mpidp.options import option


@dataclass
class SignOptions:
    local_momentum: float = option(
        0.9, "momentum of every rank's own gradient, before it is encoded", minimum=0, below=1
    )


class Signs(Codec):
    """The codec: sign(x), a bit each; contributions are counted as votes."""

    def size(self, n):
        return -(-n // 8)

    def encode(self, x, payload, turn):
        payload[: self.size(len(x))] = self.xp.packbits(self.positive(x, turn))

    def decode(self, payload, out):
        out.fill(0)
        self.add(payload, out)

    def add(self, payload, out):
        bits = payload[: self.size(len(out))]
        for part in chunks(len(out)):
            plus = self.xp.unpackbits(bits[part.start // 8 : -(-part.stop // 8)])[: part.stop - part.start]
            out[part] += 2 * plus.astype(self.xp.int8) - 1

    def own(self, x, turn):
        x[...] = 2 * self.positive(x, turn).astype(self.xp.int8) - 1

    decide = own

    def positive(self, x: Array, turn) -> Array:
        """Whether each counts as +."""
        return x >= 0 if turn.number % 2 else x > 0


class Sign(LocalMomentum):
    """On every rank with gradient g_r:

        u_r ← μ u_r + g_r                μ = `--local-momentum`
        g ← sign(Σ_r sign(u_r))          a rank sends signs to a chunk's owner, who counts and sends the majority's back

    So the gradient that the optimizer sees is +1 or -1 everywhere: with plain SGD a step moves every parameter by the
    learning rate, which is that of Adam rather than of SGD; weight decay knows nothing of its scale. A bit has no 0: a
    value of 0, and a vote that ends in a tie, count as + in odd turns and as - in even ones, so that what has no
    gradient does not drift. Wire: n / 8 bytes. No error feedback: what is sent has no size that an error could be
    measured by (`onebit` has both).
    Source: Bernstein et al. 2018, arXiv 1802.04434 (signSGD) and 1810.05291 (majority vote, and Signum's momentum).
    """

    Options = SignOptions
    coded = True
    hops = False
    clips = False
    unfit = {"changes": "a vote on the change of a parameter has no size, so there is no mean to move to"}

    def __init__(self, place, options):
        super().__init__(place, Signs(options, place.xp), feedback=False)
