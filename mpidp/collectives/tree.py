"""Two binary trees: half of the vector climbs each of them and comes down again, in segments.

Every rank is in both trees, and one that adds up and passes on in one of them is a leaf of the other: so all links are
busy, both ways. Even segments of the vector go by the first tree, odd ones by the second. In the reduce phase a rank
adds its children's sums of a segment to its own and sends that to its parent, while the next segment is on its way to
it; the root's is the whole sum, which comes down the same way.

    latency 2 ⌈lg P⌉ messages instead of the ring's 2 (P - 1); for m segments and n bytes, at the most
    messages a rank = 2 m,        bytes a rank = 2 n,        all ranks together 2 n (P - 1), as around the ring

A tree is drawn over an interval of positions that begins with an even one: its root is the odd position nearest to the
middle, with trees over what is left on either side below it; so even positions are leaves. Rank r has position r in
the first tree, r + 1 (mod P) in the second. The sum of a segment is made at one root, in a fixed order (its own, then
its left child's, then its right child's), so all ranks hold the same bits.
Source: Sanders, Speck & Träff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel
Comput. 35(12).
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from mpidp.arrays import Array
from mpidp.collectives.wire import Bytes, Wire, plain
from mpidp.comm import Algorithm, Communicator, Steps
from mpidp.comm.communicator import Pending

SEGMENT, MOST = 1 << 17, 8
"""Either half of the vector is cut into segments of about so many elements, and into so many at most."""


@dataclass(frozen=True)
class Place:
    """A rank's in one tree."""

    parent: int | None  # None: it is the root
    children: tuple[int, ...]


@lru_cache(256)
def places(size: int, rank: int) -> tuple[Place, Place]:
    """In the first tree and in the second."""

    def ranks(shift: int) -> Place:
        parent, children = around((rank + shift) % size, 0, size)
        above = None if parent is None else (parent - shift) % size
        return Place(above, tuple((child - shift) % size for child in children))

    return ranks(0), ranks(1)


def root(lo: int, hi: int) -> int:
    """The position at the top of the tree over [lo, hi), where lo is even."""
    middle = (lo + hi) // 2
    return lo if hi - lo == 1 else middle - (middle % 2 == 0)


def around(position: int, lo: int, hi: int, parent: int | None = None) -> tuple[int | None, list[int]]:
    """The positions above and right below this one, in the tree over [lo, hi) that hangs at `parent`."""
    top = root(lo, hi)
    below = [(lo, top), (top + 1, hi)]
    for left, right in below:
        if left <= position < right:
            return around(position, left, right, top)
    return parent, [root(left, right) for left, right in below if left < right]


def bounds(n: int, size: int) -> list[int]:
    """The grid of segments: as many for one tree as for the other."""
    count = 2 * min(max(1, n // (2 * SEGMENT)), MOST)
    return [i * n // count for i in range(count + 1)]


def segments(n: int, size: int) -> tuple[list[slice], list[slice]]:
    """Those of the first tree and those of the second."""
    every = [slice(lo, hi) for lo, hi in pairwise(bounds(n, size))]
    return every[::2], every[1::2]


@Algorithm
def coded_reduce_scatter(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[segment] ← Σ over ranks of vector[segment], at the root of its tree: the sums are at two ranks."""

    def expect(place: Place, part: slice, turn: int) -> tuple[list[Array], list[Pending]]:
        landed = [wire.landing(part, 2 * (turn % 2) + i) for i in range(len(place.children))]
        return landed, [
            comm.Irecv(memory, child, tag) for memory, child in zip(landed, place.children, strict=True)
        ]

    sends = []
    trees = zip(places(comm.size, comm.rank), segments(wire.size, comm.size), strict=True)
    for place, parts in sorted(
        trees, key=lambda tree: len(tree[0].children)
    ):  # first as a leaf, who waits for nobody
        coming = deque(expect(place, part, turn) for turn, part in enumerate(parts[:2]))
        for turn, part in enumerate(parts):
            landed, receives = coming.popleft()
            yield receives
            for memory in landed:
                wire.add(part, memory)
            if turn + 2 < len(parts):
                coming.append(expect(place, parts[turn + 2], turn))
            if place.parent is not None:
                sends.append(comm.Isend(wire.partial(part), place.parent, tag))
    yield sends


@Algorithm
def coded_all_gather(comm: Communicator, wire: Wire, tag: int = 0) -> Steps:
    """vector[segment] ← what the root of its tree has there."""
    sends, coming = [], []
    for place, parts in zip(places(comm.size, comm.rank), segments(wire.size, comm.size), strict=True):
        for part in parts:
            if place.parent is None:
                outgoing = wire.whole(part)
                sends += [comm.Isend(outgoing, child, tag) for child in place.children]
            else:
                coming.append((place, part, comm.Irecv(wire.home(part), place.parent, tag)))
    for place, part, message in sorted(
        coming, key=lambda one: -len(one[0].children)
    ):  # first what others wait for
        yield (message,)
        sends += [comm.Isend(wire.home(part), child, tag) for child in place.children]
        wire.place(part)
    yield sends


def landing(n: int, size: int) -> tuple[int, int]:
    """Two segments from each of two children, where a tree has so many."""
    lengths = [hi - lo for lo, hi in pairwise(bounds(n, size))]
    return 2 * min(2, len(lengths) // 2), max(lengths)


allreduce, _, _ = plain(coded_reduce_scatter, coded_all_gather, landing)


def cost(n: int, size: int, rank: int, nbytes: Bytes) -> tuple[int, int]:
    """(messages, bytes) that `rank` sends in one all-reduce of n elements: exact."""
    messages = sent = 0
    for place, parts in zip(places(size, rank), segments(n, size), strict=True):
        copies = (place.parent is not None) + len(place.children)  # up, and down
        messages += copies * len(parts)
        sent += copies * sum(nbytes(part.stop - part.start) for part in parts)
    return messages, sent
