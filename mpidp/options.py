"""Options declared next to the code that uses them.

A component (a model, a data source, a split, a strategy, an optimizer ...) carries a dataclass `Options`
whose fields are made by `option`. The command line, the TOML file and the checkpoint are all built from
these dataclasses, so that a new component brings its options along in its own file.
"""

import difflib
import math
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from mpidp.errors import UserError


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


def dashed(name: str) -> str:
    """An option's name as people write it."""
    return name.replace("_", "-")


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The refusal of a name, with the nearest and all the known ones."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return UserError(f"{what} {name}: no such name; {hint}known: {', '.join(known)}")


def build(options: type, values: dict[str, Any]) -> Any:
    """An `Options` object from values by dashed names, each converted to its field's type and checked."""
    kinds = typing.get_type_hints(options)
    converted = {}
    for f in fields(options):
        if dashed(f.name) in values:
            converted[f.name] = check(dashed(f.name), values[dashed(f.name)], kinds[f.name], f.metadata)
    return options(**converted)


def check(name: str, value: Any, kind: Any, metadata: Any) -> Any:
    """`value` as `kind`, within the range that `metadata` states; raises UserError with name, value and range."""
    kind = plain_type(kind)
    try:
        if kind is bool:
            if not isinstance(value, bool):
                raise ValueError
        elif isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        else:
            value = kind(value)
    except OverflowError:  # a whole number of more than 308 digits
        value = math.inf
    except (TypeError, ValueError):
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise UserError(f"--{name} {value}: must be {names[kind]}") from None
    if kind is float and not math.isfinite(value):
        raise UserError(f"--{name} {value}: must be a finite number")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise unknown(f"--{name}", value, choices)
    limits = (
        ("minimum", "at least", lambda limit: value >= limit),
        ("above", "more than", lambda limit: value > limit),
        ("maximum", "at most", lambda limit: value <= limit),
        ("below", "less than", lambda limit: value < limit),
    )
    for key, words, holds in limits:
        limit = metadata.get(key)
        if limit is not None and not holds(limit):
            raise UserError(f"--{name} {value}: must be {words} {limit:g}")
    return value


def plain_type(kind: Any) -> type:
    """int for `int | None`, and so on."""
    if isinstance(kind, types.UnionType):
        return next(k for k in kind.__args__ if k is not types.NoneType)
    return kind
