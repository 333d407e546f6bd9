"""What a checkpoint says of itself, and which ones there are."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from mpidp import __version__
from mpidp.checkpoint.tensors import opened, parsed, sync
from mpidp.errors import UserError

FORMAT = 2
"""Format 1 had neither `mpidp` nor `options`; all else is the same, and it is read."""

LONGEST = 256 << 20  # bytes of a manifest: a line a rank

NAME = re.compile(r"step-(\d{8,18})")


class Damaged(UserError):
    """A checkpoint that is not what was written: `--skip-damaged` goes on from the one before it."""

    def __init__(self, path: Path, why: str):
        super().__init__(
            f"--resume: {path} is damaged ({why}): add --skip-damaged to go on from the one before it"
        )
        self.path, self.why = path, why


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def complete(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first: each was whole when it came to be there.

    Raises UserError where the folder cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted((folder / name for name in names), key=step_of)


def finish(partial: Path, manifest: dict[str, Any], keep: int) -> None:
    """Write the manifest, have the checkpoint count by one rename, and drop all but the last `keep`.

    Raises OSError.
    """
    final = partial.parent / folder_name(manifest["step"])
    text = partial / "manifest.json"
    text.write_text(json.dumps(manifest | {"seal": seal(manifest)}, indent=1), encoding="utf-8")
    sync(text)
    sync(partial)
    remove(final)  # of an earlier run that was resumed from before this step
    partial.rename(final)
    sync(final.parent)
    for old in complete(final.parent)[:-keep]:
        remove(old)


def remove(path: Path) -> None:
    """Remove a checkpoint: by one rename it is none any more, however far the rest comes."""
    aside = path.with_name(f".{path.name}.old.partial")
    with contextlib.suppress(OSError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def put_aside(path: Path) -> None:
    """Have a damaged checkpoint count no more, and leave it there as `step-00000100.damaged`."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.rename(aside)


def remove_partial(folder: Path) -> None:
    """Clear away what killed runs left of checkpoints that they had not finished, or not yet removed."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of what the manifest says."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises Damaged, and UserError for one of a newer mpidp."""
    try:
        with opened(path / "manifest.json") as file:
            manifest = parsed(file.read(LONGEST))
        version, sealed = manifest["format"], manifest["seal"] == seal(manifest)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(path, f"manifest.json: {why(error)}") from None
    except KeyError as error:
        raise Damaged(path, f"manifest.json says nothing of {error}") from None
    if not is_whole(version) or version < 1:
        raise Damaged(path, "manifest.json has no format")
    if version > FORMAT:
        writer = str(manifest.get("mpidp", "a newer one"))[:40]
        raise UserError(
            f"--resume: {path} has format {version}, written by mpidp {writer}; this is mpidp {__version__}, which "
            f"reads formats up to {FORMAT}: use the mpidp that wrote it"
        )
    if not sealed:
        raise Damaged(path, "manifest.json is not what was written")
    if odd := unlikely(manifest, path):
        raise Damaged(path, f"manifest.json: {odd}")
    return manifest


def unlikely(manifest: dict[str, Any], path: Path) -> str | None:
    """What a sealed manifest says that none of ours would, if anything."""
    step, ranks, files = (manifest.get(name) for name in ("step", "ranks", "files"))
    if not is_whole(step) or step < 0 or not is_whole(ranks) or not 1 <= ranks <= 10**6:
        return "step and ranks are no numbers of steps and ranks"
    if step != step_of(path):
        return f"it is of step {step}"
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        return "files are no names with their hashes"
    for name in files:
        number = name[len("rank-") : -len(".safetensors")]
        if not number.isdecimal() or int(number) >= ranks or name != file_name(int(number)):
            return f"none of {ranks} ranks has a file called {name[:80]}"
    kinds: dict[str, Any] = {
        "collective": str | None,
        "validation_loss_before": float | None,
        "last": dict,
        "data": str,
        "diagnostics": dict,
        "numbers": dict,
        "options": dict,
    }
    for name, kind in kinds.items():
        if name in manifest and not isinstance(manifest[name], kind):
            return f"{name} is {str(manifest[name])[:80]}"
    return None


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def why(error: Exception) -> str:
    """What the file system or a reader said, in short."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
