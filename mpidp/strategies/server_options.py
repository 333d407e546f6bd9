"""What parameter servers are asked to do."""

from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option

USED_BY = {
    "staleness": "stale",
    "backup_workers": "synchronous",
    "scale_by_staleness": "asynchronous",
    "delay_compensation": "asynchronous",
}


@dataclass
class ServerOptions:
    servers: int = option(
        1, "ranks (the last ones) that serve instead of work; the model is cut over them", minimum=1
    )
    consistency: str = option(
        "synchronous",
        "servers step with the gradients of all workers, with each as it comes, or let fast workers run ahead",
        choices=("synchronous", "stale", "asynchronous"),
    )
    staleness: int | None = option(
        None, "--consistency stale: steps that a worker may be ahead of the slowest (1)", minimum=0
    )
    backup_workers: int | None = option(
        None, "--consistency synchronous: gradients of each step that are not waited for", minimum=0
    )
    scale_by_staleness: bool = option(
        False, "--consistency asynchronous: divide the learning rate of a gradient by its staleness"
    )
    delay_compensation: float | None = option(
        None,
        "--consistency asynchronous: correct stale gradients to first order, times this (DC-ASGD)",
        minimum=0,
    )

    def __post_init__(self):
        for name, consistency in USED_BY.items():
            value, said = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and value is not False and self.consistency != consistency:
                raise UserError(
                    f"{said} is used by --consistency {consistency}, this run has --consistency {self.consistency}: "
                    f"leave {said} out, or choose the other"
                )
        if self.consistency == "stale" and self.staleness is None:
            self.staleness = 1
