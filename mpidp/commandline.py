"""The command line, TOML files and presets: where the options of `config.py` come from."""

import argparse
import dataclasses
import difflib
import math
import os
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from mpidp.comm import Communicator
from mpidp.comm.world import require_same, together
from mpidp.config import GROUPS, KINDS, RunOptions, all_names, components
from mpidp.data.files import read_bytes
from mpidp.errors import UserError
from mpidp.options import build, dashed, plain_type, unknown


def parse(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(from the command line, from --config, from --preset), each by dashed names, not yet checked."""
    parser = build_parser()
    given = {dashed(k): v for k, v in vars(parser.parse_args(arguments)).items()}
    preset = read_preset(given.pop("preset")) if "preset" in given else {}
    file = read_toml(expanded(given.pop("config"))) if "config" in given else {}
    return given, file, preset


def read_toml(path: Path, what: str = "--config ") -> dict[str, Any]:
    """The options in a TOML file of `name = value` lines. Raises UserError with `what` and the file's name."""
    try:
        content = read_bytes(path)
    except UserError as error:
        raise UserError(f"{what}{error}") from None
    try:
        table = tomllib.loads(content.decode())
    except (
        ValueError,
        RecursionError,
    ) as error:  # also UnicodeDecodeError, and numbers of more digits than any has
        raise UserError(f"{what}{path}: not TOML: {error}") from None
    known = all_names()
    for name, value in table.items():
        if name not in known:
            raise unknown(f"{path}: option", name, sorted(known))
        if isinstance(value, dict | list):
            raise UserError(f"{path}: {name} must be one value, not a table or list")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {name} = {value}: must be a finite number")
    return table


def expanded(path: str) -> Path:
    """The path, with ~ for the user's own folder, which the shell leaves as it is in --run-dir=~/runs."""
    return Path(os.path.expanduser(path))


def presets() -> list[str]:
    """The names of the ready-made sets of options."""
    return sorted(
        f.name[:-5] for f in (resources.files("mpidp") / "presets").iterdir() if f.name.endswith(".toml")
    )


def read_preset(name: str) -> dict[str, Any]:
    """The options of a preset. Raises UserError for a name that is none."""
    if name not in presets():
        raise unknown("--preset", name, presets())
    return tomllib.loads((resources.files("mpidp") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UserError, so that all ranks end together and one of them says why."""

    def __init__(self, *args: Any, known: type | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.known = (
            all_names() | {"config", "preset"} if known is None else {dashed(f.name) for f in fields(known)}
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse. Raises UserError also for bytes that are no text: no file of ours could name them."""
        for argument in args or ():
            if not is_text(argument):
                raise UserError(
                    f"{ascii(argument)[1:-1]}: not valid UTF-8: check the encoding, or rename that file"
                )
        return super().parse_args(args, namespace)

    def error(self, message: str) -> typing.NoReturn:
        if message.startswith("unrecognized arguments: "):
            name = next(iter(message.split(": ", 1)[1].split()), "''")
            known = [f"--{n}" for n in sorted(self.known | {"help"})]
            near = difflib.get_close_matches(name.split("=")[0], known, 1)
            message = f"{name}: no such option" + (f"; did you mean {near[0]}?" if near else "; see --help")
        raise UserError(message)


def is_text(argument: str) -> bool:
    """Whether an argument is text, and not bytes that only a file system would take."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def wants_help(
    arguments: Sequence[str], comm: Communicator, parser: argparse.ArgumentParser | None = None
) -> bool:
    """Whether the user asks for help; rank 0 gives it. Raises SharedError where not all ranks were asked."""
    asked = "-h" in arguments or "--help" in arguments
    require_same(comm, {"--help": asked})
    if asked and comm.rank == 0:
        (parser or build_parser()).print_help()
    return asked


def parse_small(program: str, about: str, options: type, arguments: Sequence[str], comm: Communicator) -> Any:
    """The `options` of a program with a command line of its own; None where help was asked for and given.

    Raises SharedError, on every rank, for a mistake in them.
    """
    parser = Parser(
        prog=program, description=about, argument_default=argparse.SUPPRESS, allow_abbrev=False, known=options
    )
    for f in fields(options):
        add(parser, f, options)
    if wants_help(arguments, comm, parser):
        return None
    given = together(comm, lambda: vars(parser.parse_args(arguments)))
    return together(comm, lambda: build(options, {dashed(name): value for name, value in given.items()}))


def build_parser() -> Parser:
    """Every option of every component, grouped by topic; values stay as given until the choices are known."""
    parser = Parser(
        prog="mpirun -n P python -m mpidp.train",
        description="Split a training set over MPI ranks, train a replica on each, keep them in step, merge them.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    seen = set()
    run_fields = {f.name: f for f in fields(RunOptions)}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            add(group, run_fields[name], RunOptions)
            seen.add(name)
        if title == "output":
            group.add_argument(
                "--config", metavar="FILE", help="a TOML file of options, with these same names"
            )
            group.add_argument("--preset", metavar="NAME", help=f"ready-made options: {', '.join(presets())}")
    for kind in KINDS:
        for name, options in components(kind).items():
            if new := [f for f in fields(options) if f.name not in seen]:
                group = parser.add_argument_group(f"--{kind} {name}")
                for f in new:
                    add(group, f, options)
                    seen.add(f.name)
    return parser


def add(group: Any, f: dataclasses.Field, options: type) -> None:
    """The field as an option; its value stays a text (or a truth value) until it is known which component takes it."""
    kind = plain_type(typing.get_type_hints(options)[f.name])
    text = f.metadata["help"].replace("%", "%%")
    if kind is bool:
        group.add_argument(f"--{dashed(f.name)}", action=argparse.BooleanOptionalAction, help=text)
        return
    required = f.default is dataclasses.MISSING
    choices = f.metadata["choices"]
    if choices:
        text += f": {', '.join(choices)}"
    if not required and f.default is not None:
        text += f" [{f.default}]"
    metavar = f.metadata["metavar"] or ("NAME" if choices else {int: "N", float: "X", str: "TEXT"}[kind])
    group.add_argument(f"--{dashed(f.name)}", metavar=metavar, help=text, required=required)
