"""The train program with something that happens to one rank in the middle of it."""

from pathlib import Path


def failing(statement: str, step: int = 3, rank: int = 1) -> str:
    """The train program, for `python -c`, in which `rank` runs a statement when it comes to `step`."""
    return (
        "import os, signal, sys\n"
        "from mpidp import train\n"
        "from mpidp.building import Job\n"
        "batch = Job.batch\n"
        "def bad(job, t):\n"
        f"    if t == {step} and job.comm.rank == {rank}:\n"
        f"        {statement}\n"
        "    return batch(job, t)\n"
        "Job.batch = bad\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )


def once_saved(run: Path, step: int, statement: str) -> str:
    """The statement, once the checkpoint of this step is complete: it is written while training goes on."""
    manifest = run / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    wait = f"[time.sleep(0.01) for _ in iter(pathlib.Path({str(manifest)!r}).exists, True)]"
    return f"import pathlib, time; {wait}; {statement}"
