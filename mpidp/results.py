"""What a run leaves at its end: the merged model, kept somewhere even where its directory is full; and its marks."""

import contextlib
import json
import shutil
import signal
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from mpidp import checkpoint
from mpidp.arrays import to_host
from mpidp.building import Job
from mpidp.checkpoint.manifest import why
from mpidp.errors import RunError, Stopped, UserError
from mpidp.model_file import save_model
from mpidp.models.gpt import stream
from mpidp.workspace import write_whole

if TYPE_CHECKING:
    from mpidp.progress import Progress


def write(job: Job, folder: Path, summary: dict[str, Any]) -> None:
    """Write model.safetensors and summary.json.

    Where the model cannot be written there, it goes into the folder for temporary files, and what the run knows is
    written wherever it can be. Raises UserError, which says what was kept and where.
    """
    text = json.dumps(summary, indent=1) + "\n"
    try:
        if not folder.is_dir():  # somebody has removed it
            folder.mkdir(parents=True)
            write_whole(folder / "config.toml", job.config.to_toml())
        write_model(job, folder)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            write_whole(folder / "summary.json", text)
        raise UserError(
            f"the merged model cannot be written into {folder} ({why(error)}): {rescued(job, text)}; "
            f"{to_do(folder)}"
        ) from None
    try:
        write_whole(folder / "summary.json", text)
    except OSError as error:
        raise UserError(
            f"{folder}/summary.json cannot be written ({why(error)}): the merged model was, whole"
        ) from None


def write_model(job: Job, folder: Path) -> None:
    save_model(folder / "model.safetensors", job.model, job.config, job.data.schema, job.data.tokenizer)


def rescued(job: Job, text: str) -> str:
    """Write model and summary into a folder for temporary files; what is to be said of it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="mpidp-rescued-"))
    except OSError as error:
        return f"nor into the folder for temporary files ({why(error)})"
    try:
        write_model(job, folder)
        write_whole(folder / "config.toml", job.config.to_toml())
        write_whole(folder / "summary.json", text)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return f"nor into the folder for temporary files ({why(error)})"
    return f"it is in {folder}/model.safetensors instead"


def to_do(folder: Path) -> str:
    """What a user can do when there is room again."""
    try:
        last = checkpoint.complete(folder / "checkpoints")[-1:]
    except UserError:
        last = []
    if last:
        return f"with room for it, --resume goes on from {last[0].name} and writes it"
    return "there is no checkpoint to resume from"


def weight_error(job: Job) -> float | None:
    """‖θ - θ*‖ / ‖θ*‖ of the merged weights and bias from the exact solution θ*, where the data knows one."""
    truth = job.data.truth
    if not truth:
        return None
    found = {p.name: to_host(job.model.params[p.lo : p.hi]).astype(np.float64) for p in job.model.parameters}
    if found.keys() != truth.keys():
        return None  # another model than the linear one
    off = np.concatenate([found[name] - truth[name].ravel() for name in truth])
    return float(np.linalg.norm(off) / np.linalg.norm(np.concatenate([t.ravel() for t in truth.values()])))


def sample(job: Job) -> str:
    """What the merged model writes after "The ": 200 tokens, or what 5 seconds allow."""
    tokenizer = job.data.tokenizer
    rng = np.random.default_rng(job.config.run.seed)
    deadline = time.perf_counter() + 5
    ids = []
    for token in islice(stream(job.model, tokenizer.encode("The "), 0.8, 40, rng, tokenizer.size), 200):
        ids.append(token)
        if time.perf_counter() > deadline:
            break
    text = "The " + tokenizer.decode(ids)
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text
    )  # no escapes to the terminal


def stopped(progress: "Progress", t: int) -> Exception:
    """The end of a run that a signal stops after step t: with its state on disk, or the reason why it is not."""
    job = progress.job
    error = progress.checkpoints.finish() if progress.saved == t else progress.save(t, wait=True)
    progress.tell(wait=True)
    progress.report.end()
    name = signal.Signals(job.comm.stop.signal).name
    text = f"stopped by {name} after step {t} of {job.steps}"
    if error is not None:
        return RunError(f"{text}, but the checkpoint could not be written: {error}")
    return Stopped(f"{text}; its state is saved: --resume --run-dir {progress.folder} goes on")
