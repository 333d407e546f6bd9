"""`python -m mpidp.doctor`, alone or under mpirun: is this set-up sane, and if not, what is to be done?

Alone it starts no MPI in its own process, but two ranks beside it, with the launcher that it finds.
Exit code 0 where there is no problem (warnings there may be), 1 where there is one.
"""

import argparse
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpidp import machine
from mpidp.doctor import surroundings
from mpidp.doctor.findings import OK, PROBLEM, WARNING, Finding, report
from mpidp.doctor.gpus import gpus

SECONDS_TO_START = 60
NO_MPI = "pip install 'mpidp[mpich]' (brings an MPI and its mpirun), or load your cluster's MPI module"
ALLOW_ROOT = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
OVERSUBSCRIBE = "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"


def main(arguments: list[str] | None = None) -> int:
    """Look at this set-up and report; the exit code."""
    machine.print_anything()
    parser = argparse.ArgumentParser(prog="python -m mpidp.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    options = parser.parse_args(arguments)
    findings = [surroundings.python(), surroundings.packages(), surroundings.mpi_wheels()]

    if importlib.util.find_spec("numpy") is None:
        return report(
            [*findings, Finding("MPI", WARNING, "not looked at: that needs NumPy")], options.json, 1
        )
    from mpidp.comm import probe, world

    def finish(*more: Finding) -> int:
        """Report what one process can see by itself; where several were launched, the first speaks for all."""
        if world.launcher_rank() != 0:
            return (
                0  # not 1: Open MPI's mpirun ends the others, the speaker too, when one leaves with an error
            )
        return report([*findings, *more, *around([machine.facts()])], options.json, 1)

    launched = world.launcher_size()
    library = probe.library()
    if library.error:
        return finish(Finding("MPI", PROBLEM, f"mpi4py loads no MPI library: {library.error}", NO_MPI))
    text = (
        f"{library.vendor} {library.version} (MPI {library.standard}) at {library.path or 'a path unknown'}"
    )
    findings.append(Finding("MPI", OK, text))
    if launched is None:
        return finish(*launcher(library))
    stranger = probe.mismatch(library.vendor)
    if stranger:
        return finish(wrong_launcher(library, launched[0], stranger))
    with limit_on_start(text):
        _, size = probe.initialise()
    if size == 1 < launched[0]:
        return finish(wrong_launcher(library, *launched))

    def body(comm: Any) -> int:
        comm.timeout = SECONDS_TO_START
        ranks = comm.allgather(machine.facts() | {"library": f"{library.vendor} {library.version}"})
        code = 0
        if comm.rank == 0:
            matches = Finding(
                "launcher", OK, f"that of {launched[1]}: {launched[0]} ranks, which see each other"
            )
            aware = gpu_aware(probe.gpu_aware(library.path))
            found = [*findings, matches, surroundings.sameness(ranks), aware, *around(ranks)]
            code = report(found, options.json, comm.size)
        return comm.bcast(code)

    return world.guarded(body)


def around(ranks: list[dict[str, Any]]) -> list[Finding]:
    return [
        *surroundings.cores(ranks),
        surroundings.blas(),
        surroundings.memory(ranks),
        *surroundings.shared_memory(),
        *gpus(sum(facts["host"] == ranks[0]["host"] for facts in ranks)),
    ]


@contextmanager
def limit_on_start(library: str) -> Iterator[None]:
    """End this process with one line if MPI does not start in time: while it starts, no signal is noticed."""

    def give_up() -> None:
        text = f"{library} did not start within {SECONDS_TO_START} s: was this launched by its own mpirun?"
        print(f"mpidp: problem: {text}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(SECONDS_TO_START, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def wrong_launcher(library: Any, ranks: int, kind: str) -> Finding:
    found = f"{ranks} ranks were launched by the mpirun of {kind}, but mpi4py loads {library.vendor}"
    return Finding("launcher", PROBLEM, f"{found}: each would be alone, or abort", right_launcher(library))


def right_launcher(library: Any) -> str:
    beside = os.path.join(sys.prefix, "bin", "mpirun")
    where = f": {beside}" if os.path.exists(beside) and library.path.startswith(sys.prefix) else ""
    return f"use the mpirun that belongs to {library.vendor}{where}"


def gpu_aware(answer: bool | None) -> Finding:
    words = {
        True: "yes, it says",
        False: "no: arrays of a GPU travel through host memory",
        None: "it does not say",
    }
    return Finding("GPU-aware MPI", OK, words[answer])


def launcher(library: Any) -> list[Finding]:
    """Find the launcher, and start two ranks with it."""
    from mpidp.comm import probe

    program = probe.launcher()
    if program is None:
        mend = "one rank works; for more: srun, if your cluster has it, or " + NO_MPI
        return [Finding("launcher", WARNING, "no mpirun on PATH or in this environment", mend)]
    trial = probe.trial(program.path)
    found = f"{program.path} ({program.vendor or 'of unknown make'})"
    open_mpi = probe.is_open_mpi(program.vendor)
    if trial.code == 0 and trial.sizes == (trial.ranks,) * trial.ranks:
        mend = f"for more ranks than cores: export {OVERSUBSCRIBE}" if open_mpi else ""
        findings = [
            Finding("launcher", OK, f"{found}: started {trial.ranks} ranks, which see each other", mend),
            gpu_aware(trial.gpu_aware),
        ]
    elif 1 in trial.sizes:
        found += f": {trial.ranks} ranks each believed to be alone, since mpi4py loads {library.vendor}"
        findings = [Finding("launcher", PROBLEM, found, right_launcher(library))]
    else:
        if program.vendor and open_mpi != probe.is_open_mpi(library.vendor):
            mend = f"mpi4py loads {library.vendor}: {right_launcher(library)}"
        elif "run as root" in trial.text:
            mend = f"export {ALLOW_ROOT} {OVERSUBSCRIBE}"
        elif "slots" in trial.text:
            mend = f"export {OVERSUBSCRIBE}"
        else:
            mend = f"see all it says: {program.path} -n 2 {sys.executable} -m mpidp.comm.probe"
        said = next((line.strip() for line in trial.text.splitlines() if line.strip(" -")), "nothing")
        ending = "did not end in time" if trial.code == 124 else f"ended with code {trial.code}"
        found += f" cannot start {trial.ranks} ranks: it {ending} and said: {said[:200]}"
        findings = [Finding("launcher", PROBLEM, found, mend)]
    if program.stray:
        folder = os.path.join(sys.prefix, "bin")
        found = f"the mpirun of this environment ({folder}) is not the first on PATH"
        findings.append(
            Finding("PATH", WARNING, found, f"activate the environment, or export PATH={folder}:$PATH")
        )
    return findings


if __name__ == "__main__":
    sys.exit(main())
