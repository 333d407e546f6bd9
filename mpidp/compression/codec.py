"""Codecs: how elements become bytes on the wire, and the bytes elements again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpidp.arrays import Array
from mpidp.compression.coded import Coded
from mpidp.compression.encoding import Encoding
from mpidp.compression.turn import Turn
from mpidp.errors import UserError
from mpidp.options import option

CHUNK = 1 << 16
"""Elements that are worked on at a time: what they need of temporary memory stays in a core's second-level cache."""

WORD = 4
"""Bytes: payloads are multiples of it, so that the numbers in the next one are aligned for every device."""


@dataclass
class Feedback:
    """Options of a codec that can go without error feedback."""

    error_feedback: bool = option(True, "keep what an encoding loses and add it to what is encoded next")


@dataclass
class BlockOptions(Feedback):
    """Options of codecs with a scale for each block."""

    block: int = option(
        256, "elements that share one scale of 4 bytes (a multiple of 8; qsgd: 64)", minimum=8, maximum=CHUNK
    )

    def __post_init__(self):
        if self.block % 8:
            raise UserError(
                f"--block {self.block}: must be a multiple of 8, so that blocks begin at whole bytes"
            )


class Codec(Encoding):
    """How a run of n elements travels: in `nbytes(n)` bytes, whatever they are.

    Encoding is lossy. What is lost is the business of error feedback (`coded.py`), and of no codec.
    Subclasses: `size`, `encode`, `decode`; and `add` where there is a shorter way to it.
    """

    coded = True
    Options: Any = Feedback

    def __init__(self, options: Any, xp: Any):
        self.options, self.xp = options, xp

    @classmethod
    def make(cls, place, options):
        return Coded(place, cls(options, place.xp), options.error_feedback)

    @classmethod
    def extra_vectors(cls, options):
        return int(options.error_feedback)

    def nbytes(self, n: int) -> int:
        """Bytes of the payload of n elements: those of `size`, rounded up to whole words."""
        return -(-self.size(n) // WORD) * WORD

    def size(self, n: int) -> int:
        """Bytes that n elements need."""
        raise NotImplementedError

    def encode(self, x: Array, payload: Array, turn: Turn) -> None:
        """payload (bytes) ← x (float32 or float64, left as it is)."""
        raise NotImplementedError

    def decode(self, payload: Array, out: Array) -> None:
        """out ← what the payload stands for: the same bits on every rank."""
        raise NotImplementedError

    def add(self, payload: Array, out: Array) -> None:
        """out += what the payload stands for, in the type of `out`."""
        decoded = self.xp.empty_like(out)
        self.decode(payload, decoded)
        out += decoded

    def own(self, x: Array, turn: Turn) -> None:
        """Make of an owner's own contribution x what a peer's would be when decoded, where that matters."""

    def decide(self, x: Array, turn: Turn) -> None:
        """Make of x, to which all contributions were added, the result, where that is not their sum."""


def chunks(n: int) -> Iterator[slice]:
    """[0, n) in slices of CHUNK elements."""
    return (slice(a, min(a + CHUNK, n)) for a in range(0, n, CHUNK))


class BlockCodec(Codec):
    """Small whole numbers with one float32 scale for each block of B = `--block` elements.

    The payload: ⌈n / B⌉ scales, then the codes. Subclasses say by `scales` and `codes` what a block becomes, by
    `values` what it stands for, and by `code_bytes`, `write` and `read` how codes lie in bytes.
    """

    Options = BlockOptions

    def size(self, n):
        return 4 * -(-n // self.options.block) + self.code_bytes(n)

    def encode(self, x, payload, turn):
        scales, codes = self.split(payload, len(x))
        draws = self.draws(turn)
        for a, b, first, shape in self.blocks(len(x)):
            block = x[a:b].reshape(shape)
            scale = self.scales(block).astype(self.xp.float32)
            scales[first : first + shape[0]] = scale
            self.write(codes, a, b, self.codes(block, scale[:, None], draws).reshape(-1))

    def decode(self, payload, out):
        scales, codes = self.split(payload, len(out))
        for a, b, first, shape in self.blocks(len(out)):
            scale = scales[first : first + shape[0], None]
            self.values(self.read(codes, a, b).reshape(shape), scale, out[a:b].reshape(shape))

    def split(self, payload: Array, n: int) -> tuple[Array, Array]:
        """The scales and the bytes of the codes in a payload."""
        edge = 4 * -(-n // self.options.block)
        return payload[:edge].view(self.xp.float32), payload[edge:]

    def blocks(self, n: int) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
        """(from, to, number of the first block, (blocks, elements of each)) of pieces of [0, n), about CHUNK long."""
        block = self.options.block
        whole, step = n // block * block, CHUNK // block * block
        for a in range(0, whole, step):
            b = min(a + step, whole)
            yield a, b, a // block, ((b - a) // block, block)
        if whole < n:
            yield whole, n, whole // block, (1, n - whole)

    def draws(self, turn: Turn) -> Any:
        """What `codes` may draw from."""
        return None

    def code_bytes(self, n: int) -> int:
        raise NotImplementedError

    def scales(self, x: Array) -> Array:
        """One number for each row of x."""
        raise NotImplementedError

    def codes(self, x: Array, scale: Array, draws: Any) -> Array:
        raise NotImplementedError

    def values(self, codes: Array, scale: Array, out: Array) -> None:
        raise NotImplementedError

    def write(self, memory: Array, a: int, b: int, codes: Array) -> None:
        raise NotImplementedError

    def read(self, memory: Array, a: int, b: int) -> Array:
        raise NotImplementedError
