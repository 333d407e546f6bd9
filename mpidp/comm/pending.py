"""Operations under way."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Pending:
    """Operations under way that complete together: `tests` each answer whether one of them is done."""

    tests: list[Callable[[], bool]]
    what: str  # with {} for the peer and {} for the bytes, where there are
    peer: int = 0
    nbytes: int = 0

    def __str__(self) -> str:
        return self.what.format(self.peer, self.nbytes)
