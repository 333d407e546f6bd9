"""Checkpoints of ranks as threads, for tests."""

import numpy as np

from mpidp import checkpoint
from mpidp.comm import run_ranks


def arrays_of(rank, step=0):
    return {"params": np.arange(5.0) + rank + 100 * step, "state.momentum": np.full(5, rank, np.float32)}


def facts(parts):
    return {"collective": "ring", "parts": parts}


def save(folder, *steps, ranks=2, keep=2, own=lambda rank: True):
    """Each rank's answer to the last step: None, or why it was not written."""
    folder.mkdir(exist_ok=True)

    def body(comm):
        saving = checkpoint.Checkpoints(comm, folder, keep)
        for step in steps:
            arrays = arrays_of(comm.rank, step) if own(comm.rank) else {}
            saving.save(step, arrays, facts, [comm.rank, step])
        return saving.finish()

    return run_ranks(ranks, body, timeout=30)


def accept(path, manifest):
    """Every checkpoint is of this run."""


def load(folder, ranks=2, skip=False, refuse=accept):
    """(step, every rank's arrays, what was skipped)"""

    def body(comm):
        path, manifest, skipped = checkpoint.find(comm, folder, skip, refuse)
        return manifest["step"], checkpoint.Files(comm, path, manifest).own(), skipped

    (step, _, skipped), *_ = found = run_ranks(ranks, body, timeout=30)
    return step, [arrays for _, arrays, _ in found], skipped


def names(folder):
    return sorted(path.name for path in folder.iterdir())
