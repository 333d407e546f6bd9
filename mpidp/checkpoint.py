"""Checkpoints: written aside and renamed, so that at any moment the last complete one is whole.

    DIR/checkpoints/step-00000100/
        rank-00000.safetensors    what `Strategy.saved` gave on that rank; ranks with nothing to save write none
        manifest.json             step, ranks, and the SHA-256 of every file and of itself: written last

The folder is made as `.step-00000100.partial`, every file is synced to disk, and one rename makes it count.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from mpidp.arrays import Array, to_host
from mpidp.comm import Communicator
from mpidp.comm.world import together
from mpidp.errors import UserError

FORMAT = 1


def save(
    comm: Communicator, folder: Path, step: int, arrays: dict[str, Array], facts: dict, keep: int
) -> str | None:
    """Write a checkpoint of all ranks, each its own `arrays`; None, or why it could not be written.

    Where it could not, nothing is left of it and the older ones stay; where it could, the last `keep` stay.
    """
    name = f"step-{step:08d}"
    partial = folder / f".{name}.partial"
    error = comm.bcast(attempt(lambda: begin(partial)) if comm.rank == 0 else None)
    file = f"rank-{comm.rank:05d}.safetensors"
    digest = None
    if error is None and arrays:
        error = attempt(lambda: write(partial / file, arrays))
        digest = None if error else sha256(partial / file)
    everyone = comm.allgather([error, digest])
    error = next((text for text, _ in everyone if text is not None), None)
    if comm.rank == 0:
        if error is None:
            files = {
                f"rank-{rank:05d}.safetensors": found for rank, (_, found) in enumerate(everyone) if found
            }
            manifest = {"format": FORMAT, "step": step, "ranks": comm.size, "files": files, **facts}
            error = attempt(lambda: finish(partial, folder / name, manifest, keep))
        if error is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return comm.bcast(error)


def attempt(action: Any) -> str | None:
    """None, or what the file system said."""
    try:
        action()
    except (OSError, safetensors.SafetensorError) as error:
        return str(error)
    return None


def begin(partial: Path) -> None:
    """An empty folder to write into, whatever a killed run left there."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def write(path: Path, arrays: dict[str, Array]) -> None:
    """Write these arrays to a file, on disk when this returns."""
    save_file({name: np.ascontiguousarray(to_host(array)) for name, array in arrays.items()}, path)
    sync(path)


def finish(partial: Path, final: Path, manifest: dict, keep: int) -> None:
    """Write the manifest, have the checkpoint count by one rename, and drop all but the last `keep`."""
    text = partial / "manifest.json"
    text.write_text(json.dumps(manifest | {"seal": seal(manifest)}, indent=1))
    sync(text)
    sync(partial)
    shutil.rmtree(final, ignore_errors=True)  # of an earlier run that was resumed from before this step
    partial.rename(final)
    sync(final.parent)
    for old in complete(final.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def seal(manifest: dict) -> str:
    """SHA-256 of what the manifest says."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Have the file's or folder's content on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "manifest.json").is_file())


def remove_partial(folder: Path) -> None:
    """Clear away what killed runs left of checkpoints that they had not finished."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def latest(folder: Path) -> tuple[Path, dict]:
    """The newest complete checkpoint and its manifest. Raises UserError where there is none, or it is unreadable."""
    found = complete(folder)
    if not found:
        raise UserError(
            f"--resume: no complete checkpoint in {folder}, so there is nothing to go on from: delete the run's "
            "directory, or name another --run-dir, to start anew (--checkpoint-every N writes checkpoints)"
        )
    path = found[-1]
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, sealed = manifest["format"], manifest["seal"] == seal(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"manifest.json: {error}") from None
    if version != FORMAT:
        raise UserError(
            f"--resume: {path} has format {version}, this mpidp reads {FORMAT}: use the mpidp that wrote it"
        )
    if not sealed:
        raise damaged(path, "manifest.json is not what was written")
    return path, manifest


class Files:
    """What the ranks of a run saved (`strategies.state.Saved`), in the files of a checkpoint."""

    def __init__(self, comm: Communicator, path: Path, manifest: dict):
        self.comm, self.path, self.files = comm, path, manifest["files"]
        self.ranks: int = manifest["ranks"]
        self.lost = ()

    def own(self) -> dict[str, np.ndarray]:
        """Raises SharedError, as `of` does."""
        return together(self.comm, lambda: self.read(0) | self.read(self.comm.rank))

    def of(self, rank: int) -> dict[str, np.ndarray]:
        """Raises SharedError on every rank where on some of them the file is missing or its SHA-256 differs."""
        return together(self.comm, lambda: self.read(rank))

    def read(self, rank: int) -> dict[str, np.ndarray]:
        """That rank's arrays, none where it wrote no file. Raises UserError."""
        name = f"rank-{rank:05d}.safetensors"
        if name not in self.files:
            return {}
        try:
            if sha256(self.path / name) != self.files[name]:
                raise damaged(self.path, f"{name} is not what was written")
            return load_file(self.path / name)
        except (OSError, safetensors.SafetensorError) as error:
            raise damaged(self.path, f"{name}: {error}") from None


def damaged(path: Path, why: str) -> UserError:
    """What a user reads of a checkpoint that is not what was written."""
    return UserError(
        f"--resume: {path} is damaged ({why}): delete that folder to go on from the one before it"
    )
