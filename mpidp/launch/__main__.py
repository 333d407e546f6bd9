"""Train under supervision: ranks that fail are started again from the last checkpoint.

A thin layer over mpirun or srun. What stands behind `--` are the options of mpidp.train; where they do not say what is
to be done on a failure, it is --on-failure restart. Under --on-failure shrink there is a restart where the ranks that
are left cannot go on. Exit code: that of the last start. No restart follows a user's mistake (2), nor a stop by a
signal (3, 130, 143).
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from mpidp.comm.endings import one_line, say
from mpidp.commandline import Parser, add
from mpidp.errors import UserError
from mpidp.launch.supervisor import MISTAKE, LaunchOptions, Supervisor
from mpidp.machine import print_anything
from mpidp.options import build, dashed

TRAIN = ("-m", "mpidp.train")


def main(arguments: Sequence[str] | None = None, program: Sequence[str] = TRAIN) -> int:
    """Start `program` on ranks as the command line says, again after a failure; the exit code."""
    print_anything()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        ours, theirs = divided(arguments)
        if ours is None:
            build_parser().print_help()
            return 0
        return Supervisor(ours, program, theirs).run()
    except UserError as error:
        say(f"error: {one_line(error)}")
        return MISTAKE


def divided(arguments: Sequence[str]) -> tuple[LaunchOptions | None, list[str]]:
    """Our options (None where help is asked for), and those of the train program behind `--`. Raises UserError."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    before, theirs = arguments[:cut], list(arguments[cut + 1 :])
    if "-h" in before or "--help" in before:
        return None, []
    given = {dashed(name): value for name, value in vars(build_parser().parse_args(before)).items()}
    return build(LaunchOptions, given), theirs


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m mpidp.launch",
        usage="python -m mpidp.launch -n P [OPTIONS] -- [OPTIONS OF mpidp.train]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        known=LaunchOptions,
    )
    for field in dataclasses.fields(LaunchOptions):
        if field.name == "ranks":
            parser.add_argument("-n", "--ranks", metavar="P", required=True, help=field.metadata["help"])
        else:
            add(parser, field, LaunchOptions)
    return parser


if __name__ == "__main__":
    sys.exit(main())
