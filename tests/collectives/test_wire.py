"""What every route owes to the wire: any wire, not just the vector itself, must be able to carry its parts."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES, hierarchical, tree
from mpidp.comm import Communicator, run_ranks

CODED = [name for name, route in COLLECTIVES.items() if route.coded_reduce_scatter is not None]
LENGTHS = [0, 1, 3, 64, 301]
HEADER = 2  # elements before those of a cell


class Aside:
    """Carries copies, with a header before each cell, and counts what it is asked for: as an encoding would."""

    def __init__(self, vector: np.ndarray, bounds: list[int]):
        self.vector, self.size = vector, vector.size
        self.raw = vector.copy()
        self.cells = [(lo, hi) for lo, hi in pairwise(bounds) if lo < hi]
        sizes = np.cumsum([0, *(HEADER + hi - lo for lo, hi in self.cells)])
        self.at = dict(zip([0, *(hi for _, hi in self.cells)], sizes.tolist(), strict=True))
        self.out, self.came = (np.full(sizes[-1], np.nan) for _ in range(2))
        self.landed: dict[int, np.ndarray] = {}  # by slot
        self.asked: dict[str, Counter] = {
            verb: Counter() for verb in ("own", "partial", "add", "whole", "place")
        }

    def of(self, part: slice, verb: str = "") -> list[tuple[int, int]]:
        """The cells of a part, which lies between two cuts."""
        assert part.start in self.at and part.stop in self.at
        cells = [cell for cell in self.cells if part.start <= cell[0] and cell[1] <= part.stop]
        if verb:
            self.asked[verb].update(cells)
        return cells

    def write(self, memory: np.ndarray, part: slice, cells) -> np.ndarray:
        for lo, hi in cells:
            memory[self.at[lo] : self.at[hi]] = [lo, hi, *self.vector[lo:hi]]
        return memory[self.at[part.start] : self.at[part.stop]]

    def read(self, memory: np.ndarray, part: slice, cells):
        """The values of each cell, whose header must be its own."""
        for lo, hi in cells:
            payload = memory[self.at[lo] - self.at[part.start] : self.at[hi] - self.at[part.start]]
            assert payload[:HEADER].tolist() == [lo, hi]
            yield slice(lo, hi), payload[HEADER:]

    def own(self, part):
        assert not self.asked["add"] and (self.vector == self.raw).all()
        self.of(part, "own")

    def partial(self, part):
        return self.write(self.out, part, self.of(part, "partial"))

    def landing(self, part, slot=0):
        assert slot not in self.landed  # what is under way to it would be lost
        self.landed[slot] = np.full(self.at[part.stop] - self.at[part.start], np.nan)
        return self.landed[slot]

    def add(self, part, landed):
        (slot,) = (slot for slot, memory in self.landed.items() if memory is landed)
        del self.landed[slot]
        for cell, values in self.read(landed, part, self.of(part, "add")):
            self.vector[cell] += values

    def whole(self, part):
        return self.write(self.came, part, self.of(part, "whole"))

    def home(self, part):
        self.of(part)
        return self.came[self.at[part.start] : self.at[part.stop]]

    def place(self, part):
        for cell, values in self.read(self.home(part), part, self.of(part, "place")):
            self.vector[cell] = values


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """So that routes cut these short vectors as they cut long ones."""
    monkeypatch.setattr(tree, "SEGMENT", 20)
    monkeypatch.setattr(hierarchical, "PIECE", 3)
    hierarchical.work.cache_clear()
    yield
    hierarchical.work.cache_clear()


def carried(comm: Communicator, name: str, length: int) -> Aside:
    """The sum of random vectors by this wire, checked against the plain one, and its traffic against the formula."""
    route = COLLECTIVES[name]
    vector = np.random.default_rng([comm.rank, length]).normal(size=length)
    plain, copied = (route.allocate(comm, length, np.dtype(np.float64)) for _ in range(2))
    plain[...] = copied[...] = vector
    route.allreduce(comm, plain, np.empty(route.scratch(length, comm.size)))
    wire = Aside(copied, route.bounds(length, comm.size))
    before = comm.traffic.copy()
    route.coded_reduce_scatter(comm, wire)
    if route.reduce_scatter is not None:
        mine = route.part(length, comm.size, comm.rank)
        assert (wire.vector[mine] == plain[mine]).all() and not wire.landed
    route.coded_all_gather(comm, wire)
    sent = comm.traffic - before
    assert (wire.vector == plain).all()
    nbytes = lambda elements: 8 * (HEADER + elements) if elements else 0  # noqa: E731
    assert (sent.messages, sent.bytes) == route.cost(length, comm.hosts(), comm.rank, nbytes)
    comm.Barrier()
    return wire


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", CODED)
def test_any_wire_carries_a_sum(name, ranks):
    """Each cell is handed out by one rank, and each rank's partial of a cell is sent once at most."""

    def body(comm):
        return [carried(comm, name, length) for length in LENGTHS]

    for wires in zip(*run_ranks(ranks, body), strict=True):  # all ranks' of one length
        cells = Counter(wires[0].cells)
        assert sum((wire.asked["whole"] for wire in wires), Counter()) == cells
        for wire in wires:
            asked = wire.asked
            assert max(asked["partial"].values(), default=0) <= 1
            if name != "hierarchical":  # there neighbours see what one of them got
                assert asked["whole"] + asked["place"] == cells
            if name == "pairwise":  # raw contributions alone
                assert asked["own"] == asked["whole"] and asked["own"] + asked["partial"] == cells
            else:
                assert not asked["own"]


@pytest.mark.parametrize("hosts", [[0, 0, 1, 1], [0, 1, 0], [0, 1, 1, 2, 1, 2, 0, 1]], ids=str)
def test_any_wire_carries_a_sum_between_hosts(hosts):
    def body(comm):
        return [carried(comm, "hierarchical", length) for length in LENGTHS]

    for wires in zip(*run_ranks(len(hosts), body, hosts=hosts), strict=True):
        cells = Counter(wires[0].cells)
        assert sum((wire.asked["whole"] for wire in wires), Counter()) == cells
        asked = sum((wire.asked["partial"] for wire in wires), Counter())
        assert asked == Counter({cell: max(hosts) for cell in cells})  # once from every host but one
