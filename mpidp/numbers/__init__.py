"""Numbers gone bad: infinite or NaN losses, gradients and parameters, seen where they begin, and what is done then.

A rank looks at its parameters before a step, at its loss before backward, and at its gradient slice by slice before the
strategy has it. Under `--on-nonfinite abort` the rank that finds something ends the run, with nothing bad sent. Where a
step may be left out (skip, rewind, dynamic loss scaling) the gradient is held back until all ranks have agreed.
"""

from mpidp.numbers.options import REWIND, NumberOptions, check

__all__ = ["REWIND", "NumberOptions", "check"]
