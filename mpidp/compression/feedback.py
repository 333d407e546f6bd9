"""What sums over ranks that lose something keep between two sums: the residual, and how often they have summed."""

from typing import Any, ClassVar

import numpy as np

from mpidp.arrays import Array, zeros
from mpidp.compression.sums import Place, Sum
from mpidp.compression.turn import Turn
from mpidp.takeover import Added, Largest


class FeedbackSum(Sum):
    """A sum with error feedback: what is not delivered now is kept on the rank that kept it back, and added next time.

    So over all steps and ranks  Σ delivered + Σ residuals = Σ gradients.
    Source: Seide et al. 2014, "1-Bit Stochastic Gradient Descent", Interspeech; Karimireddy et al. 2019, arXiv
    1901.09847.
    """

    def __init__(self, place: Place, options: Any, feedback: bool):
        super().__init__(place, options)
        self.feedback = feedback
        self.residual: Array | None = None  # made when it is needed: a server encodes nothing
        self.turns: dict[int, int] = {}  # how often the part that begins here has been summed

    rules: ClassVar = {"turns": Largest, "residual": Added}

    @classmethod
    def extra_vectors(cls, options):
        return int(options.error_feedback)

    def next_turn(self, start: int) -> Turn:
        """That of the part that begins here: to be asked for once a sum."""
        number = self.turns[start] = self.turns.get(start, 0) + 1
        return Turn(self.place.seed, self.comm.rank, number, start)

    def kept(self, start: int, length: int) -> Array | None:
        """The residual of a part; None without error feedback."""
        if not self.feedback:
            return None
        if self.residual is None:
            self.residual = zeros(self.xp, self.place.n, self.place.dtype)
        return self.residual[start : start + length]

    def state(self):
        state: dict[str, Any] = {"turns": np.array(sorted(self.turns.items()), np.int64).reshape(-1, 2)}
        return state if self.residual is None else state | {"residual": self.residual}

    def load_state(self, state):
        self.turns = {int(start): int(number) for start, number in state["turns"]}
        if "residual" in state:
            self.kept(0, self.place.n)[...] = self.xp.asarray(state["residual"])
        else:
            self.residual = None  # none was made by then; a run that goes back may have one
