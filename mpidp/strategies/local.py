"""What strategies have in common whose ranks step alone between two exchanges."""

from mpidp.strategies.base import Step, Strategy


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

    def step_by(self, grads, step: Step) -> None:
        """x_r ← optimizer(x_r, grads), with clipping."""
        scale = self.clip_factor(self.squared_norm(grads))
        self.optimizer.step(self.params, grads, 0, step.lr, step.t, scale)
