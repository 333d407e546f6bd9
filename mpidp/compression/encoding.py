"""What can be asked of an encoding before a run begins: what it carries, and by which routes."""

from collections.abc import Mapping
from typing import Any

from mpidp.collectives import Collective
from mpidp.options import NoOptions


class Encoding:
    """A choice of `--compress`: its options, and what it fits. `make` gives the `Sum` that a strategy uses."""

    Options: Any = NoOptions
    coded = False
    """Whether its messages hold something else than numbers to be added, so that the route must be one of messages."""
    hops = True
    """Whether a partial sum may be encoded anew on its way; else contributions go straight to who adds them up."""
    at_once = False
    """Whether it looks at the whole gradient, so that there are no buckets that travel while backward computes."""
    clips = True
    """Whether what it delivers has the gradient's size, so that a limit on the norm means something."""
    unfit: Mapping[str, str] = {}
    """Why it cannot carry some of what strategies send (`Strategy.encodes`)."""

    @classmethod
    def make(cls, place: Any, options: Any) -> Any:
        """A `Sum` with these options at this `Place`. Raises UserError where they do not fit the model."""
        raise NotImplementedError

    @classmethod
    def unable(cls, route: Collective) -> str | None:
        """Why this route cannot carry it, or None."""
        if not cls.coded:
            return None
        if route.coded_reduce_scatter is None:
            return f"{route.name} sends no messages of its own that could be encoded"
        if not cls.hops and not route.direct:
            return f"{route.name} adds up on the way, and a sum of signs cannot travel as a sign"
        return None

    @classmethod
    def misfit(cls, optimizer: str, options: Any) -> str | None:
        """Why it does not go with this optimizer and its options, or None."""
        return None

    @classmethod
    def extra_vectors(cls, options: Any) -> int:
        """How many vectors of n elements it keeps on every rank, under these options."""
        return 0
