"""Which route a run takes: the one that it names, or the fastest as measured now or known from --calibration FILE."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpidp.collectives import AUTO, COLLECTIVES, Collective
from mpidp.collectives.calibration import SIZES, Calibration, from_json, measure, possible
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError
from mpidp.commandline import expanded
from mpidp.errors import UserError
from mpidp.workspace import from_rank_0, write_whole


@dataclass(frozen=True)
class Choice:
    """The route's name, and what `auto` chose among: seconds of a step's sum, and how they are known."""

    name: str
    seconds: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        if not self.seconds:
            return self.name
        times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        return f"{self.name} (auto, {self.source}: {times})"


def choose(
    comm: Communicator,
    name: str,
    file: str | None,
    nbytes: int,
    piece: int,
    dtype: np.dtype,
    fits: Callable[[Collective], bool],
) -> Choice:
    """The route of this name, or the fastest that `fits` for a vector of `nbytes` summed in pieces of `piece` bytes.

    Every rank gets the same answer. Raises SharedError where that route cannot be taken here, or for a broken `file`.
    """
    dtype = np.dtype(dtype)
    if name != AUTO:
        if reason := COLLECTIVES[name].unable(comm, dtype):
            raise SharedError(f"--collective {name}: {reason}; choose another, or auto")
        return Choice(name)
    names = [name for name in possible(comm, dtype) if fits(COLLECTIVES[name])]
    if len(names) == 1:  # nothing to choose, and so nothing to measure
        return Choice(names[0])
    if file is None:
        sizes = sorted({min(size, SIZES[-1]) for size in (nbytes, min(piece, nbytes)) if size > 0})
        found, source = measure(comm, dtype, sizes or SIZES[:1], names), "measured now"
    else:
        found, source = calibrated(comm, expanded(file), dtype)
    seconds = {name: found.whole(name, nbytes, piece) for name in names}
    return Choice(min(seconds, key=seconds.__getitem__), seconds, source)


def calibrated(comm: Communicator, path: Path, dtype: np.dtype) -> tuple[Calibration, str]:
    """What the file says, or, where there is none or it is of other ranks, what is measured now and kept in it."""
    text = from_rank_0(comm, lambda: read(path))
    why = ""
    if text is not None:
        try:
            known = from_json(text)
        except ValueError as error:
            raise SharedError(
                f"--calibration {path}: {error}: remove that file, and it will be measured anew, or name another"
            ) from None
        unlike = known.unlike(comm, dtype)
        if unlike is None:
            return known, f"from {path}"
        why = f", which was of {unlike}"
    found = measure(comm, dtype)
    from_rank_0(comm, lambda: write(path, found))
    return found, f"measured now and kept in {path}{why}"


def read(path: Path) -> str | None:
    """The file's text; None where there is none. Raises UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"--calibration {path}: it is not text: name another file") from None
    except OSError as error:
        raise UserError(f"--calibration {path}: cannot be read: {error.strerror}") from None


def write(path: Path, found: Calibration) -> None:
    """Keep it in the file. Raises UserError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, found.to_json())
    except OSError as error:
        raise UserError(f"--calibration {path}: cannot be written: {error.strerror}") from None
