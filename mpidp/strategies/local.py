"""What strategies have in common whose ranks step alone between two exchanges."""

import numpy as np

from mpidp.strategies.base import Step, Strategy
from mpidp.takeover import Added, Mean, Same


class LocalSteps(Strategy):
    """x_r ← optimizer(x_r, g_r) on every rank, with g_r the mean over its own samples; whoever has none rests.

    Clipping looks at the norm of this gradient. A subclass makes `self.optimizer`, whose state stays with its rank.
    """

    replicated = False
    depends_on_ranks = (
        "has each rank step on its own samples, so that their number is part of what it computes"
    )

    def scale(self, step: Step) -> float:
        return 1.0 / max(step.samples, 1)

    def step_alone(self, step: Step) -> None:
        if step.samples:
            self.step_by(self.grads, step)

    def skip(self, step: Step) -> None:
        self.step(step)  # without samples all rest

    def step_by(self, grads, step: Step) -> None:
        """x_r ← optimizer(x_r, grads), with clipping."""
        scale = self.clip_factor(self.squared_norm(grads))
        self.optimizer.step(self.params, grads, 0, step.lr, step.t, scale)

    def rules(self):
        return {"": Same, "params": Mean, "state.optimizer": Mean}


class CountedSteps(LocalSteps):
    """Local steps whose replicas count in the one model by their samples: `samples` of this rank, `total` of all."""

    def rules(self):
        parts = self.counted()
        return super().rules() | {
            "params": lambda: Mean("state.samples", parts),
            "state.samples": Added,
        }

    def counted(self) -> list[slice]:
        """The parts of the vector, each with a count of samples of its own."""
        return [slice(None)]

    def regroup(self, saved):
        """What a lost worker had worked on no longer counts."""
        arrays = super().regroup(saved)
        counts = self.comm.allgather(arrays["state.samples"].tolist())
        return arrays | {"state.total": np.sum(counts, axis=0)}
