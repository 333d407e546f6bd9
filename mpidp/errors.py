"""The two ways in which a run ends for a reason that its user can mend."""


class UserError(Exception):
    """A mistake in options, data or set-up: shown as one line on rank 0, exit code 2 on every rank.

    The text names the numbers and names at fault and says what to do; it never needs a traceback.
    """


class RunError(Exception):
    """A run that cannot go on (a rank lost, a peer silent, a loss not finite): one line, exit code 1."""
