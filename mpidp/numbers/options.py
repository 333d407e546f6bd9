"""What a user says about numbers that have gone bad."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpidp.arithmetic import FLOAT16
from mpidp.errors import UserError
from mpidp.options import option

if TYPE_CHECKING:
    from mpidp.config import RunOptions
    from mpidp.strategies import Strategy

ABORT, SKIP, REWIND = "abort", "skip", "rewind"
DYNAMIC = "dynamic"
SKIPS, REWINDS = 10, 3  # how many by default, steps in a row and times in all


@dataclass
class NumberOptions:
    on_nonfinite: str = option(
        ABORT,
        "where a loss or gradient is infinite or no number: end the run, leave that step out, or go back to the last "
        "checkpoint and leave that batch out",
        choices=(ABORT, SKIP, REWIND),
    )
    max_skips: int | None = option(
        None, f"--on-nonfinite {SKIP}: steps in a row that may be left out ({SKIPS})", minimum=1
    )
    max_rewinds: int | None = option(
        None, f"--on-nonfinite {REWIND}: how often a run may go back ({REWINDS})", minimum=1
    )
    loss_scale: str | None = option(
        None,
        f"--dtype {FLOAT16}: what the loss is multiplied by for small gradients' sake, a power of two; or {DYNAMIC} "
        "(default): as large as gradients allow",
        metavar="NUMBER",
    )


def check(run: "RunOptions") -> None:
    """Raise UserError for options that mean nothing beside the others."""
    for name, policy in (("max_skips", SKIP), ("max_rewinds", REWIND)):
        value, said = getattr(run, name), f"--{name.replace('_', '-')}"
        if value is not None and run.on_nonfinite != policy:
            raise UserError(
                f"{said} {value} is used by --on-nonfinite {policy}, this run has --on-nonfinite {run.on_nonfinite}: "
                f"leave {said} out, or choose the other"
            )
    if run.on_nonfinite == REWIND and run.checkpoint_every is None:
        raise UserError(
            f"--on-nonfinite {REWIND} goes back to the last checkpoint: give --checkpoint-every N, without which there "
            "is none"
        )
    if run.loss_scale is not None and run.dtype != FLOAT16:
        raise UserError(
            f"--loss-scale {run.loss_scale} is used by --dtype {FLOAT16}, this run has --dtype {run.dtype}, which "
            "holds small gradients as they are: leave it out"
        )
    if run.dtype == FLOAT16:
        run.loss_scale = run.loss_scale or DYNAMIC
        if run.loss_scale != DYNAMIC:
            fixed_scale(run.loss_scale)


def fixed_scale(text: str) -> float:
    """The number that `--loss-scale` says. Raises UserError where it is no power of two that float32 can hold well."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= 2.0**24 or math.frexp(value)[0] != 0.5:
        raise UserError(
            f"--loss-scale {text}: must be {DYNAMIC}, or a power of two from 1 to {2**24}, by which dividing is exact"
        )
    return value


def refuse(run: "RunOptions", strategy: "Strategy") -> None:
    """Raise UserError where all ranks would have to leave a step out together, and cannot."""
    if strategy.why_no_skip is None:
        return
    if run.on_nonfinite != ABORT:
        raise UserError(
            f"--on-nonfinite {run.on_nonfinite} has all ranks leave a step out together: --sync {run.sync} as it is "
            f"set here {strategy.why_no_skip}: leave it out, or choose another --sync"
        )
    if run.loss_scale == DYNAMIC:
        raise UserError(
            f"--loss-scale {DYNAMIC} has all ranks leave a step out together where it was too large: --sync {run.sync} "
            f"as it is set here {strategy.why_no_skip}: give a number, such as --loss-scale 1024"
        )
