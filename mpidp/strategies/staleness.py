"""How stale gradients were."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np


class Staleness:
    """A histogram: counts[τ] gradients were applied when τ updates had been made since the parameters they are of."""

    def __init__(self, counts: Sequence[int] = ()):
        self.counts = [int(count) for count in counts]

    def add(self, staleness: int) -> None:
        """One more gradient."""
        self.counts += [0] * (staleness + 1 - len(self.counts))
        self.counts[staleness] += 1

    def state(self) -> np.ndarray:
        """From which `Staleness(...)` makes it again."""
        return np.array(self.counts, np.int64)

    def summary(self) -> dict[str, Any]:
        """For the run's summary."""
        gradients = sum(self.counts)
        total = sum(tau * count for tau, count in enumerate(self.counts))
        return {
            "staleness": {str(tau): count for tau, count in enumerate(self.counts) if count},
            "staleness_mean": total / max(gradients, 1),
        }


def added(histograms: Sequence[Sequence[int]]) -> Staleness:
    """Several of them in one."""
    return Staleness([sum(column) for column in zip_longest(*histograms, fillvalue=0)])
