"""Reading a checkpoint: the newest one that is whole, and what the ranks of that run saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpidp.checkpoint import manifest as manifests
from mpidp.checkpoint import tensors
from mpidp.checkpoint.manifest import Damaged, file_name, why
from mpidp.comm import Communicator
from mpidp.comm.world import SharedError, together
from mpidp.errors import UserError

Manifest = dict[str, Any]


def find(
    comm: Communicator, folder: Path, skip_damaged: bool, refuse: Callable[[Path, Manifest], None]
) -> tuple[Path, Manifest, list[Damaged]]:
    """The newest complete checkpoint, its manifest, and the newer ones that were skipped.

    All ranks call it, and share out the files: every one of them is read and compared with its hash before anybody
    takes something up. refuse: raises UserError for a checkpoint that is not of this run.
    Raises SharedError where there is none, one is damaged and not to be skipped, or is not to be taken at all.
    """
    paths = [Path(path) for path in told_by_rank_0(comm, lambda: [str(path) for path in candidates(folder)])]
    skipped: list[Damaged] = []
    for path in reversed(paths):
        manifest, damage = told_by_rank_0(comm, lambda path=path: examined(path, refuse))
        if damage is None:
            damages = comm.allgather(damaged_files(path, manifest, comm))
            damage = next((found for found in damages if found is not None), None)
        if damage is None:
            return path, manifest, skipped
        skipped.append(Damaged(path, damage))
        if not skip_damaged:
            raise SharedError(str(skipped[0]))
    whole = "; ".join(f"{damage.path.name} is damaged ({damage.why})" for damage in skipped)
    raise SharedError(f"--resume: no checkpoint in {folder} is whole: {whole}")


def told_by_rank_0(comm: Communicator, body: Callable[[], Any]) -> Any:
    """What `body()` gives on rank 0 (JSON-able), on every rank; its UserError ends all of them."""
    value, error = None, None
    try:
        value = body() if comm.rank == 0 else None
    except UserError as caught:
        error = str(caught)
    value, error = comm.bcast([value, error])
    if error is not None:
        raise SharedError(error)
    return value


def candidates(folder: Path) -> list[Path]:
    """All checkpoints. Raises UserError where there are none."""
    found = manifests.complete(folder)
    if not found:
        raise UserError(
            f"--resume: no complete checkpoint in {folder}, so there is nothing to go on from: delete the run's "
            "directory, or name another --run-dir, to start anew (--checkpoint-every N writes checkpoints)"
        )
    return found


def examined(path: Path, refuse: Callable[[Path, Manifest], None]) -> tuple[Manifest | None, str | None]:
    """(manifest, None), or (None, how it is damaged). Raises UserError where it is to be refused."""
    try:
        manifest = manifests.read(path)
    except Damaged as damage:
        return None, damage.why
    refuse(path, manifest)
    return manifest, None


def damaged_files(path: Path, manifest: Manifest, comm: Communicator) -> str | None:
    """What is wrong with this rank's share of the files, if anything."""
    for name in sorted(manifest["files"])[comm.rank :: comm.size]:
        try:
            if tensors.sha256(path / name) != manifest["files"][name]:
                return f"{name} is not what was written"
            with tensors.opened(path / name) as file:
                tensors.entries(file)
        except (OSError, ValueError) as error:
            return f"{name}: {why(error)}"
    return None


class Files:
    """What the ranks of a run saved (`strategies.state.Saved`), in the files of a checkpoint."""

    def __init__(self, comm: Communicator, path: Path, manifest: Manifest):
        self.comm, self.path, self.files = comm, path, manifest["files"]
        self.ranks: int = manifest["ranks"]
        self.lost: tuple[int, ...] = ()

    def own(self) -> dict[str, np.ndarray]:
        """Raises SharedError, as `of` does."""
        return together(self.comm, lambda: self.read(0) | self.read(self.comm.rank))

    def of(self, rank: int) -> dict[str, np.ndarray]:
        """Raises SharedError on every rank where on some of them the file is missing or its SHA-256 differs."""
        return together(self.comm, lambda: self.read(rank))

    def read(self, rank: int) -> dict[str, np.ndarray]:
        """That rank's arrays, none where it wrote no file. Raises UserError."""
        name = file_name(rank)
        if name not in self.files:
            return {}
        try:
            if tensors.sha256(self.path / name) != self.files[name]:
                raise Damaged(self.path, f"{name} is not what was written")
            return tensors.read(self.path / name)
        except (OSError, ValueError, MemoryError) as error:
            raise Damaged(self.path, f"{name}: {why(error)}") from None


def unfit(path: Path, error: Exception) -> UserError:
    """What a user reads of a checkpoint whose arrays are not what the run keeps."""
    what = f"no {error}" if isinstance(error, KeyError) else why(error)
    return UserError(f"--resume: {path} has not the state that this run keeps: {what}")
