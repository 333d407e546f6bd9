"""Who is measured against whom: mpidp and the ways of running PyTorch, each on P ranks and as P runs on their own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case, arguments
from benchmarks.groups import Group, mpirun, torchrun

MPIDP, TORCH = "mpidp", "PyTorch"


@dataclass(frozen=True)
class Setting:
    """Where and how to run: ranks, folder of the case's files, mpidp's further options, dtype, seconds to wait."""

    ranks: int
    folder: Path
    options: Sequence[str]
    dtype: str
    timeout: float


def sides(case: Case, compile: bool) -> list[str]:
    """Names of the contestants: mpidp first, then PyTorch in each memory format, eager and, if asked, compiled."""
    layouts = [f"{TORCH}{'' if layout == 'contiguous' else ' ' + layout}" for layout in case.formats]
    return [MPIDP, *layouts, *(f"{name} compile" for name in layouts if compile)]


def together(case: Case, side: str, setting: Setting) -> Group:
    """One run on all ranks."""
    launcher = mpirun if side == MPIDP else torchrun
    command = [*launcher(setting.ranks), "-m", *_program(case, side, setting, setting.ranks, 0)]
    return Group(side, [command], setting.ranks, setting.folder, setting.timeout)


def alone(case: Case, side: str, setting: Setting) -> Group:
    """As many runs of one rank each, with a rank's part of the batch, side by side."""
    programs = [_program(case, side, setting, 1, index) for index in range(setting.ranks)]
    commands = [[sys.executable, "-m", *program] for program in programs]
    return Group(f"{side} alone", commands, setting.ranks, setting.folder, setting.timeout)


def _program(case: Case, side: str, setting: Setting, ranks: int, index: int) -> list[str]:
    if side == MPIDP:
        options = [*arguments(case, ranks, setting.folder), *setting.options, "--dtype", setting.dtype]
        return ["benchmarks.mpidp_worker", "SOCKET", str(index), *options]
    return ["benchmarks.torch_worker", "SOCKET", str(index), str(setting.folder), side]
