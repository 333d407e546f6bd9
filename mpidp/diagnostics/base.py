"""What every diagnostic answers to."""

from typing import Any

from mpidp.strategies import Step


class Diagnostic:
    """A question about a run: told of each step, asked for figures for metrics.jsonl and the summary."""

    def ready(self, lo: int, hi: int) -> None:
        """grads[lo:hi] is this rank's own gradient still."""

    def after(self, step: Step, logged: bool) -> dict[str, Any]:
        """What there is to tell of this step, on rank 0 at least; `logged`: whether its loss is."""
        return {}

    def summary(self) -> dict[str, Any]:
        return {}

    def facts(self) -> dict[str, Any]:
        """What a resumed run is to go on with."""
        return {}

    def load(self, facts: dict[str, Any]) -> None: ...
