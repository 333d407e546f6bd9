"""The ways in which a run ends for a reason that its user knows or can mend."""

import signal


class UserError(Exception):
    """A mistake in options, data or set-up: shown as one line on rank 0, exit code 2 on every rank.

    The text names the numbers and names at fault and says what to do; it never needs a traceback.
    """


class RunError(Exception):
    """A run that cannot go on (a rank lost, a peer silent, a loss not finite): one line, exit code 1."""


class Stopped(Exception):
    """A run that ended early because a signal asked for it, with its state saved: one line, exit code 3."""


class Interrupted(Exception):
    """A run that a signal ends at once: one line, exit code 128 + its number, as of a program that it kills."""

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.code = 128 + number


class RankLost(RunError):
    """Ranks have ended without the others: `lost` says of each how (their ranks in the job, not in a communicator)."""

    def __init__(self, lost: dict[int, str], where: str):
        super().__init__(f"{'; '.join(lost.values())}; {where}")
        self.lost = lost
