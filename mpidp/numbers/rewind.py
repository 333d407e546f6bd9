"""Back to the last checkpoint, in the middle of a run."""

from typing import TYPE_CHECKING, Any

from mpidp.checkpoint import Checkpoints, find
from mpidp.comm.world import SharedError
from mpidp.errors import RunError, UserError
from mpidp.workspace import Resumed

if TYPE_CHECKING:
    from mpidp.building import Job


def go_back(job: "Job", checkpoints: Checkpoints) -> dict[str, Any]:
    """Take up this run's last checkpoint, on all ranks together; its manifest.

    Raises RunError where there is none that can be read.
    """
    job.strategy.saved()  # what is under way is finished, as for a checkpoint
    checkpoints.finish()
    try:
        path, manifest, _ = find(job.comm, checkpoints.folder, True, lambda path, manifest: None)
        job.load(Resumed(path, manifest))
    except (SharedError, UserError) as error:
        raise RunError(f"the run cannot go back to a checkpoint: {error}") from None
    job.comm.Barrier()  # where there is one copy of the parameters, all have written it before one steps
    return manifest
