"""What is done when a rank is lost: the options, and who has to be there for them."""

import os
from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option

ABORT, RESTART, SHRINK = "abort", "restart", "shrink"

COPY_EVERY = 10

SUPERVISED = "MPIDP_SUPERVISED"
"""Set by the supervisor (`launch.py`) for the ranks that it starts."""


@dataclass
class FailureOptions:
    on_failure: str = option(
        ABORT,
        "when a rank is lost: end all, start again from the last checkpoint (by python -m mpidp.launch), or go on with "
        "those that are left",
        choices=(ABORT, RESTART, SHRINK),
    )
    copy_every: int | None = option(
        None,
        f"--on-failure {SHRINK}: steps between two copies of the state in memory, from which the others go on "
        f"(default: {COPY_EVERY})",
        minimum=1,
    )

    def __post_init__(self) -> None:
        if self.on_failure == SHRINK:
            self.copy_every = self.copy_every or COPY_EVERY
        elif self.copy_every is not None:
            raise UserError(
                f"--copy-every {self.copy_every} is used by --on-failure {SHRINK}; this run has --on-failure "
                f"{self.on_failure}: leave it out, or choose the other"
            )


def require_supervisor(options: FailureOptions) -> None:
    """Raise UserError where ranks are to be started again that nobody would start again."""
    if options.on_failure == RESTART and SUPERVISED not in os.environ:
        raise UserError(
            f"--on-failure {RESTART} needs a supervisor, which starts the ranks again: "
            f"python -m mpidp.launch -n P -- OPTIONS instead of mpirun -n P python -m mpidp.train OPTIONS "
            f"(or give --on-failure {ABORT})"
        )
