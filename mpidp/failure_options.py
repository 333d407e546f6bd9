"""What is done when a rank is lost: the options, and who has to be there for them."""

import os
from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option

ABORT, RESTART = "abort", "restart"

SUPERVISED = "MPIDP_SUPERVISED"
"""Set by the supervisor (`launch.py`) for the ranks that it starts."""


@dataclass
class FailureOptions:
    on_failure: str = option(
        ABORT,
        "when a rank is lost: end all of them, or start again from the last checkpoint (by python -m mpidp.launch)",
        choices=(ABORT, RESTART),
    )


def require_supervisor(options: FailureOptions) -> None:
    """Raise UserError where ranks are to be started again that nobody would start again."""
    if options.on_failure == RESTART and SUPERVISED not in os.environ:
        raise UserError(
            f"--on-failure {RESTART} needs a supervisor, which starts the ranks again: "
            f"python -m mpidp.launch -n P -- OPTIONS instead of mpirun -n P python -m mpidp.train OPTIONS "
            f"(or give --on-failure {ABORT})"
        )
