"""What strategies have in common whose ranks step alone between two exchanges."""

import numpy as np

from mpidp.strategies.base import Step, Strategy
from mpidp.strategies.state import Saved, amount
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
        scale = self.clipping(grads)
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


class WithoutHosts:
    """`Saved` of ranks that average inside hosts, as if each had worked alone, on M s_r / S samples since x₀.

    With these counts a replica has the weight in the one model that it had, whatever host it goes on at.
    """

    def __init__(self, saved: Saved):
        self.saved, self.ranks, self.lost = saved, saved.ranks, saved.lost
        self.inside: dict[int, list[float]] = {}  # s_r of each host's ranks
        for rank in range(saved.ranks):
            if rank not in saved.lost:
                arrays = saved.of(rank)
                samples = self.inside.setdefault(arrays["state.place"].item(), [])
                samples.append(arrays["state.samples"].item())

    def of(self, rank: int) -> dict[str, np.ndarray]:
        arrays = self.saved.of(rank)
        inside = self.inside[arrays["state.place"].item()]
        ours, host, total = arrays["state.samples"].item(), arrays["state.host"].item(), sum(inside)
        share = ours / total if total else 1 / len(inside)
        return arrays | {"state.samples": amount(share * (host + total)), "state.host": amount(0)}

    def own(self) -> dict[str, np.ndarray]:
        return self.saved.own()
