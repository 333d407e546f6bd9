"""When and where something is encoded: what an encoding that draws draws from."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One sum of one part of the vector, on one rank."""

    seed: int
    rank: int
    number: int  # 1, 2, ...: how often this part has been summed, with this time
    start: int  # of the part in the vector

    def draws(self, xp: Any) -> Any:
        """A generator of numbers that are this rank's, this turn's and this place's alone."""
        return xp.random.default_rng([self.seed, self.rank, self.number, self.start])

    def at(self, offset: int) -> "Turn":
        """The same for what begins so many elements behind the part's beginning."""
        return replace(self, start=self.start + offset)
