"""The two ways in which a run ends for a reason that its user can mend."""


class UserError(Exception):
    """A mistake in options, data or set-up: shown as one line on rank 0, exit code 2 on every rank.

    The text names the numbers and names at fault and says what to do; it never needs a traceback.
    """


class RunError(Exception):
    """A run that cannot go on (a rank lost, a peer silent, a loss not finite): one line, exit code 1."""


class RankLost(RunError):
    """Ranks have ended without the others: `lost` says of each how (their ranks in the job, not in a communicator)."""

    def __init__(self, lost: dict[int, str], where: str):
        super().__init__(f"{'; '.join(lost.values())}; {where}")
        self.lost = lost
