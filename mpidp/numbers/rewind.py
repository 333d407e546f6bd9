"""Back to the last checkpoint, in the middle of a run."""

from mpidp import checkpoint
from mpidp.building import Job
from mpidp.comm.world import SharedError
from mpidp.errors import RunError, UserError
from mpidp.progress import Progress
from mpidp.workspace import Resumed


def go_back(job: Job, progress: Progress) -> int:
    """Take up the last whole checkpoint in this run's folder, on all ranks together; its step.

    Raises RunError where there is none that can be read.
    """
    job.strategy.saved()  # what is under way is finished, as for a checkpoint
    progress.checkpoints.finish()
    folder = progress.folder / "checkpoints"
    try:
        found = Resumed(*checkpoint.find(job.comm, folder, True, lambda path, manifest: None))
        job.load(found)
    except (SharedError, UserError) as error:
        raise RunError(f"the run cannot go back to a checkpoint: {error}") from None
    job.comm.Barrier()  # where there is one copy of the parameters, all have written it before one steps
    progress.back(found.manifest)
    return found.manifest["step"]
