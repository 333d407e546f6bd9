"""Back to the last checkpoint, in the middle of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpidp import checkpoint
from mpidp.comm.world import SharedError
from mpidp.errors import RunError, UserError
from mpidp.workspace import Resumed, from_rank_0

if TYPE_CHECKING:
    from mpidp.building import Job


def go_back(job: "Job", folder: Path) -> dict[str, Any]:
    """Take up the last checkpoint in this run's folder, on all ranks together; its manifest.

    Raises RunError where there is none that can be read.
    """
    job.strategy.saved()  # what is under way is finished, as for a checkpoint

    def latest() -> tuple[str, dict[str, Any]]:
        path, manifest = checkpoint.latest(folder / "checkpoints")
        return str(path), manifest

    try:
        path, manifest = from_rank_0(job.comm, latest)
        job.load(Resumed(Path(path), manifest))
    except (SharedError, UserError) as error:
        raise RunError(f"the run cannot go back to a checkpoint: {error}") from None
    job.comm.Barrier()  # where there is one copy of the parameters, all have written it before one steps
    job.numbers.load(manifest.get("numbers", {}))
    job.diagnostics.load(manifest.get("diagnostics", {}))
    return manifest
