"""Damages to the bytes of a file."""

from random import Random

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
WORDS = [
    b"\xff\xfe", b"\0", b"nan", b"inf", b"1e999", b";", b"\t", b",,", b"\n\n", b"\r", b'"', b"-1", b"9" * 12,
    b"\xe9", b"1_0", b"]", b"(",
]  # fmt: skip


def mutated(rng: Random, content: bytes) -> bytes:
    """The content after one to three damages: cut, flipped, overwritten, inserted, removed, moved, doubled."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        n = len(content)
        at = rng.choice([rng.randrange(n + 1), rng.randrange(min(n, 200) + 1)])  # headers are at the front
        size = rng.choice([1, 1, 2, 4, 8, rng.randrange(1, 100)])
        before, here, after = content[:at], content[at : at + size], content[at + size :]
        kind = rng.randrange(9)
        if kind == 0:
            content = before
        elif kind == 1 and here:
            content = before + bytes([here[0] ^ (1 << rng.randrange(8))]) + here[1:] + after
        elif kind == 2:
            content = before + rng.randbytes(len(here)) + after
        elif kind == 3:
            content = before + rng.randbytes(size) + here + after
        elif kind == 4:
            content = before + after
        elif kind == 5:
            content = before + bytes(len(here)) + after
        elif kind == 6:
            length = rng.choice([1, 2, 4, 8])
            number = (rng.choice(NUMBERS) % 256**length).to_bytes(length, rng.choice(["little", "big"]))
            content = before + number + content[at + length :]
        elif kind == 7:
            content = before + rng.choice(WORDS) + here + after
        else:
            content = before + here * rng.choice([2, 3, 50]) + after
    return content
