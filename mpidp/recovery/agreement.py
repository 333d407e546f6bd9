"""How those who are left agree who they are, from which copy they go on, and that all is done: by control messages."""

import time
from typing import Any

from mpidp.comm.control import Control
from mpidp.recovery.copies import Key

NAP = 1e-3  # seconds
DONE = "done"


class Agreement:
    """What each rank last said of the ranks that it sees, and of the newest copy that it has.

    Everyone says so to all whom it sees, and again when it sees fewer. Who has heard the same ranks from all of them
    knows that they will all come to know it, but for those who die meanwhile: then the next agreement is among fewer.
    """

    def __init__(self, control: Control):
        self.control = control
        self.words: dict[int, Any] = {}
        control.on("left", self.words.__setitem__)

    def reach(self, newest: Key | None) -> tuple[list[int], Key | None] | None:
        """The ranks that are left, and the newest copy that all of them have; None where they have finished.

        They have where one of them has: the last meeting was behind it, and nothing is left to do.
        """
        with self.control.waiting_for(lambda: "all who are left to say who that is"):
            return self.agree(newest)

    def agree(self, newest: Key | None) -> tuple[list[int], Key | None] | None:
        said = None
        while True:
            alive = self.control.alive()
            if alive != said:
                self.say([alive, newest], alive)
                said = alive
            words = [self.words.get(rank) for rank in alive]
            if DONE in words:
                return None
            if all(word is not None and word[0] == alive for word in words):
                keys = [None if key is None else tuple(key) for _, key in words]
                self.control.accept(set(range(self.control.size)) - set(alive))
                return alive, None if None in keys else min(keys)
            time.sleep(NAP)

    def finish(self) -> None:
        """Return when all who are left have finished."""
        self.say(DONE, self.control.alive())
        with self.control.waiting_for(lambda: "all who are left to have finished"):
            while any(self.words.get(rank) != DONE for rank in self.control.alive()):
                time.sleep(NAP)

    def say(self, word: Any, to: list[int]) -> None:
        self.words[self.control.rank] = word
        self.control.tell("left", word, [rank for rank in to if rank != self.control.rank])
