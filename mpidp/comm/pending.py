"""Operations under way."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Pending:
    """Operations under way that complete together: `tests` each answer whether one of them is done.

    unfinished: where its operations are kept if it is dropped before they are complete.
    """

    tests: list[Callable[[], bool]]
    what: str  # with {} for the peer and {} for the bytes, where there are
    peer: int = 0
    nbytes: int = 0
    unfinished: "Unfinished | None" = None

    def __str__(self) -> str:
        return self.what.format(self.peer, self.nbytes)

    def take(self) -> list[Callable[[], bool]]:
        """Its tests, for another to wait for them in its place."""
        tests, self.tests = self.tests, []
        return tests

    def __del__(self) -> None:
        # No call of MPI: whichever thread collects garbage is here.
        if self.tests and self.unfinished is not None:
            self.unfinished.kept.append(self.tests)


class Unfinished:
    """Operations that nobody waits for any more, with their memory: their strategy was given up in a sum, say.

    MPI will write into it all the same when the message comes: until then nobody else may have it.
    """

    def __init__(self) -> None:
        self.kept: list[list[Callable[[], bool]]] = []

    def let_go(self) -> None:
        """Give up the memory of those that have come to their end."""
        for tests in list(self.kept):
            with contextlib.suppress(Exception):  # libraries say so of whatever a lost rank had begun
                if all(test() for test in tests):
                    self.kept.remove(tests)
