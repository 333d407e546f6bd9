"""What a loss is multiplied by, so that small gradients are not lost where they are rounded to float16."""

from typing import Any

from mpidp.numbers.options import DYNAMIC, fixed_scale

START, LEAST, LARGEST = 2.0**16, 1.0, 2.0**24
GROWS_AFTER = 2000  # steps without an overflow


class LossScale:
    """S: the loss is multiplied by it before backward, and gradients are divided by it when they are final.

    float16 holds nothing below 2⁻²⁴ = 6e-8, and gradients of activations lie there; times S, they do not. S is a power
    of two, so that dividing by it is exact. Dynamic: a step whose gradients overflow is left out by all ranks, and S is
    halved; after 2000 steps without one it is doubled. So S is the same on all ranks always.
    At S = 1 an overflow is not S's fault, and is treated as any other (`Numbers`).
    Source: Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740, section 3.2.
    """

    def __init__(self, value: float = 1.0, dynamic: bool = False):
        self.value, self.dynamic = value, dynamic
        self.good = 0  # steps since it last changed
        self.overflows = 0

    @classmethod
    def of(cls, said: str | None) -> "LossScale":
        """As `--loss-scale` says; 1 without it."""
        if said == DYNAMIC:
            return cls(START, dynamic=True)
        return cls() if said is None else cls(fixed_scale(said))

    def can_be_less(self) -> bool:
        return self.dynamic and self.value > LEAST

    def overflowed(self) -> None:
        """A step was left out for it."""
        self.value /= 2
        self.good = 0
        self.overflows += 1

    def went_well(self) -> None:
        """A step was applied."""
        self.good += 1
        if self.dynamic and self.good >= GROWS_AFTER:
            self.value = min(2 * self.value, LARGEST)
            self.good = 0

    def facts(self) -> dict[str, Any]:
        """What a resumed run is to go on with."""
        return {"value": self.value, "good": self.good, "overflows": self.overflows} if self.dynamic else {}

    def load(self, facts: dict[str, Any]) -> None:
        if self.dynamic and facts:
            self.value, self.good = float(facts["value"]), int(facts["good"])
            self.overflows = int(facts["overflows"])
