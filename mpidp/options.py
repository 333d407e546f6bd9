"""Options declared next to the code that uses them.

A component (a model, a data source, a split, a strategy, an optimizer ...) carries a dataclass `Options`
whose fields are made by `option`. The command line, the TOML file and the checkpoint are all built from
these dataclasses, so that a new component brings its options along in its own file.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
) -> Any:
    """A field of an `Options` dataclass: its default, help, and legal range.

    `minimum` and `maximum` are inclusive bounds, `above` and `below` exclusive ones; `choices` lists the legal
    names. The type is the field's annotation: `int`, `float`, `str`, `bool`, or one of them `| None`.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "below": below,
        "choices": tuple(choices) if choices is not None else None,
        "metavar": metavar,
    }
    return field(default=default, metadata=metadata)


@dataclass
class NoOptions:
    """For a component that has no options of its own."""
