"""The run directory, and how a run or a resumed run begins in it."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpidp import __version__, checkpoint
from mpidp.arithmetic import NUMPY
from mpidp.claim import Claim
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError, require_same, together
from mpidp.commandline import expanded, parse, read_toml
from mpidp.compression import PLAIN
from mpidp.config import KINDS, MAY_CHANGE, Config, resolve
from mpidp.data import Data
from mpidp.device import CPU
from mpidp.errors import UserError
from mpidp.strategies.state import Saved

RECORDS = ("config.toml", "summary.json", "model.safetensors")
"""Files by which a run directory is seen to hold a run."""


@dataclasses.dataclass
class Resumed:
    """The checkpoint that a run goes on from."""

    path: Path
    manifest: dict[str, Any]
    skipped: Sequence[checkpoint.Damaged] = ()  # newer ones
    data: Data | None = None  # where it is loaded already

    def saved(self, comm: Communicator) -> Saved:
        """What the ranks of that run saved."""
        return checkpoint.Files(comm, self.path, self.manifest)


def configure(comm: Communicator, arguments: Sequence[str]) -> tuple[Config, Path, Resumed | None]:
    """The run's options, the same on all ranks, its directory, and the checkpoint if it is to be resumed.

    Raises SharedError, on every rank, where the options are wrong, differ between ranks, or the directory holds
    another run.
    """
    given, file, preset = together(comm, lambda: parse(arguments))
    require_same(
        comm,
        {"the version of mpidp": __version__} | {f"--{k}": v for k, v in (preset | file | given).items()},
    )
    user = file | given
    defaults = preset
    resuming = bool(user.get("resume"))
    if resuming:
        recorded = from_rank_0(comm, lambda: recorded_options(user))
        anew = {"steps", "epochs"} if not {"steps", "epochs"}.isdisjoint(preset) else set()
        if user.get("device", recorded["device"]) != recorded["device"]:
            anew |= {"blas"}  # which was found for the other device
        # A preset that differs is refused, not ignored.
        defaults = {k: v for k, v in recorded.items() if k not in anew} | preset
    config = together(comm, lambda: resolve(user, defaults))
    if resuming:
        together(comm, lambda: refuse_changes(config, recorded))
    folder = Path(from_rank_0(comm, lambda: choose(config, resuming)))
    config.run.run_dir = str(folder)
    if not resuming:
        return config, folder, None
    from_rank_0(comm, lambda: refuse_company(folder))
    found = checkpoint.find(
        comm, folder / "checkpoints", config.run.skip_damaged, lambda *of: refuse_another_run(*of, config)
    )
    return config, folder, Resumed(*found)


def from_rank_0(comm: Communicator, body: Any) -> Any:
    """What `body()` gives on rank 0 (JSON-able), on every rank; its UserError ends all of them."""
    try:
        value, error = (body() if comm.rank == 0 else None), None
    except UserError as caught:
        value, error = None, str(caught)
    value, error = comm.bcast([value, error])
    if error is not None:
        raise SharedError(error)
    return value


def recorded_options(user: dict[str, Any]) -> dict[str, Any]:
    """The options in the run directory's config.toml."""
    if "run-dir" not in user:
        raise UserError("--resume needs --run-dir DIR, the directory of the run to go on with")
    path = expanded(user["run-dir"]) / "config.toml"
    if not exists(path):
        raise UserError(
            f"--resume: {path} does not exist, so there is no run to go on with; leave --resume out"
        )
    there_was_no_other = {"blas": NUMPY, "compress": PLAIN, "device": CPU}  # when these were not recorded
    recorded = there_was_no_other | read_toml(path, "--resume: ")
    return {
        name: value for name, value in recorded.items() if name not in ("resume", "skip-damaged", "run-dir")
    }


def refuse_changes(config: Config, recorded: dict[str, Any]) -> None:
    """Raise UserError where a resumed run would train something else than the run in its directory."""
    now = config.flat()
    for name in differing(now, recorded):
        raise UserError(
            f"--resume: the run in {config.run.run_dir} was started with --{name} {recorded.get(name)}, "
            f"not {now.get(name)}: give the same, or start a new run in another --run-dir"
        )


def refuse_another_run(path: Path, manifest: dict[str, Any], config: Config) -> None:
    """Raise UserError where this checkpoint was put into the run's directory from another run's."""
    then, now = manifest.get("options"), lasting(config)
    if then is None:
        return  # of a format that did not record them
    for name in differing(now, then):
        raise UserError(
            f"--resume: {path} is of another run: it was trained with --{name} {str(then.get(name))[:80]}, not "
            f"{now.get(name)}: put it back where it came from, or resume that run"
        )


def differing(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Options that differ and say what is trained, a choice before what follows from it.

    A run may go on on another device, and then with other products.
    """
    free = MAY_CHANGE | {"device"} | ({"blas"} if now.get("device") != then.get("device", CPU) else set())
    names = sorted((now.keys() | then.keys()) - free, key=lambda name: (name not in KINDS, name))
    return [name for name in names if now.get(name) != then.get(name)]


def lasting(config: Config) -> dict[str, Any]:
    """The options that say what is trained, and where."""
    return {name: value for name, value in config.flat().items() if name not in MAY_CHANGE}


def refuse_company(folder: Path) -> None:
    """Raise UserError where another run is at work in this directory."""
    try:
        Claim(folder).release()
    except OSError as error:
        raise UserError(f"--run-dir {folder}: cannot be written: {error.strerror}") from None


def choose(config: Config, resuming: bool) -> str:
    """Where the run's directory is or will be. Raises UserError where it holds another run."""
    name = f"{config.run.model}-{config.run.sync}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = expanded(config.run.run_dir) if config.run.run_dir else unused(Path("runs") / name)
    if not resuming and any(exists(folder / file) for file in RECORDS):
        raise UserError(
            f"--run-dir {folder} holds a run already: add --resume to go on with it, or name another"
        )
    return str(folder)


def exists(path: Path) -> bool:
    """Whether this file is there. Raises UserError where this user may not look."""
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"--run-dir {path.parent}: cannot be read: {error.strerror}") from None


def open_folder(config: Config, folder: Path, comm: Communicator) -> list[Claim]:
    """Make the run directory, with config.toml in it: the last thing that can go wrong before training.

    Rank 0 claims it, for as long as what is returned lives.
    """
    claims: list[Claim] = []

    def make() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claims.append(Claim(folder))
            write_whole(folder / "config.toml", config.to_toml())
        except OSError as error:
            raise UserError(f"--run-dir {folder}: cannot be written: {error.strerror}") from None

    from_rank_0(comm, make)
    return claims


def way_on(folder: Path) -> str:
    """What to do after a run that could not go on: the end of a line that says why; empty where nothing was kept."""
    try:
        kept = checkpoint.complete(folder / "checkpoints")
    except UserError:  # nothing that could be read
        return ""
    return f" ({kept[-1].name} is kept: mend that, then --resume --run-dir {folder})" if kept else ""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that, at any moment and after a loss of power too, it is the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def unused(folder: Path) -> Path:
    """`folder`, or with a number behind it where it exists: two runs may start in the same second."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
