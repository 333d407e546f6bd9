"""Kill a rank of a small run, and see that the run ends as promised: `survive(Trial(...), folder, References())`."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.expected import Expected
from tests.faults.launching import LIMIT, STARTING, Blow, Ended, launch, plain, supervised
from tests.faults.victim import PHASES, Fault

RANKS = 3
STEPS, SAVE_EVERY, COPY_EVERY = 12, 4, 2
MODEL = (
    "--model mlp --data synthetic-classes --features 5 --classes 3 --samples 200 --hidden 16 --batch-size 24 "
    f"--lr 0.01 --steps {STEPS} --checkpoint-every {SAVE_EVERY} --timeout 60 --blas numpy --json"
).split()
SYNCS = {
    "allreduce": ["--collective", "ring", "--compress", "topk", "--density", "0.3"],
    "adasum": [],
    "sharded": ["--collective", "ring", "--clip", "0.5"],
    "server": ["--servers", "1"],
    "averaging": ["--collective", "ring", "--period", "3", "--outer", "sgd"],
    "streaming": ["--collective", "ring", "--period", "6", "--compress", "int8"],
    "elastic": ["--collective", "ring", "--period", "3"],
    "gossip": ["--collective", "ring", "--graph", "random", "--mixing", "push-sum"],
    "onesided": [],
    "none": ["--collective", "ring"],
}
VARYING = ("onesided",)  # strategies whose bits depend on who is late, as they are set here

OUTSIDE = "outside"  # a phase: a process is killed from outside, at a random moment
EARLY = "early"  # likewise, before the run trains
PACE = 0.05  # seconds that a step takes at least, where it is to be killed from outside
RESTART, SHRINK, SUPERVISED, ABORT = "restart", "shrink", "supervised", "abort"
PROMISES = {
    RESTART: (*PHASES, OUTSIDE),
    SHRINK: (*PHASES, OUTSIDE, EARLY),
    SUPERVISED: (OUTSIDE,),
    ABORT: (*PHASES, OUTSIDE, EARLY),
}
"""The phases of kills under each policy. Supervised: `mpidp.launch` with --on-failure shrink. From outside, under the
supervisor, any process of a rank may be hit, its guard as well, and at any moment from the launch on; under a plain
mpirun, a rank that trains. Early, any process, before the run trains: a plain mpirun then ends the job, in time and
with the cause named."""


@dataclass(frozen=True)
class Trial:
    """One kill."""

    sync: str
    policy: str
    phase: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.sync}-{self.policy}-{self.phase}-{self.seed}"


@dataclass
class Outcome:
    """How a run ended; `problems` is empty where it ended as promised."""

    trial: Trial
    seconds: float
    killed: bool
    problems: list[str]
    text: str = ""


def trials(policies: tuple[str, ...], seed: int) -> list[Trial]:
    """Every strategy and phase under every policy."""
    every = [(phase, policy) for phase in (*PHASES, OUTSIDE, EARLY) for policy in policies]
    return [
        Trial(sync, policy, phase, seed)
        for phase, policy in every
        if phase in PROMISES[policy]
        for sync in SYNCS
    ]


class References:
    """What runs must come to, by strategy; made when first asked for."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, bool], Expected] = {}

    def of(self, trial: Trial) -> Expected:
        copies = trial.policy in (SHRINK, SUPERVISED)
        if (trial.sync, copies) not in self.known:
            arguments = [*MODEL, "--sync", trial.sync, *SYNCS[trial.sync]]
            self.known[trial.sync, copies] = Expected(
                trial.sync, RANKS, arguments, COPY_EVERY if copies else None
            )
        return self.known[trial.sync, copies]


def survive(trial: Trial, folder: Path, references: References) -> Outcome:
    """Run it."""
    draw = random.Random(str(trial))
    once, run = folder / "struck", folder / "run"
    from_outside = trial.phase in (OUTSIDE, EARLY)
    fault = Fault(
        rank=draw.randrange(RANKS),
        phase=trial.phase,
        step=SAVE_EVERY if trial.phase == "saving" else draw.randint(1, STEPS),
        once=str(once),
        turn=draw.randint(1, 12),
        pace=PACE if from_outside else 0.0,
    )
    blow = blow_of(trial, draw) if from_outside else None
    ended = launch(command(trial, run), run, fault, blow, draw)
    killed = once.exists() or ended.struck is not None
    problems = [] if killed or blow else ["nobody was killed"]
    if ended.late:
        problems.append(f"it was still running after {LIMIT:g} s")
    problems += [f"it left {name}" for name in ended.processes]
    if "Traceback" in ended.stderr:
        problems.append("a traceback")
    rank = ended.struck if blow else fault.rank
    if ended.code and (trial.policy == ABORT or (trial.policy == SHRINK and trial.phase == EARLY)):
        # A job that mpirun ends leaves MPICH's segments in /dev/shm, which nobody of its own could remove.
        problems += (
            [] if named(ended, None if trial.phase == EARLY else rank) else ["the cause was not named"]
        )
    elif ended.code:
        problems.append(f"exit code {ended.code}")
    elif trial.policy == ABORT and killed and not blow:
        problems.append("exit code 0")
    else:
        problems += [f"it left {name}" for name in ended.segments]
        problems += compare(trial, ended.summary(), rank, references.of(trial))
        problems += unlike(run / "metrics.jsonl")
    told = (
        f"fault: {fault}, {blow}\n-- stdout --\n{ended.stdout[-3000:]}\n-- stderr --\n{ended.stderr[-4000:]}"
    )
    return Outcome(trial, ended.seconds, killed, problems, told)


def blow_of(trial: Trial, draw: random.Random) -> Blow:
    """When a process is killed from outside, and which."""
    any_process = trial.phase == EARLY or trial.policy in (RESTART, SUPERVISED)
    early = trial.phase == EARLY or (any_process and draw.random() < 0.5)
    return Blow(early, draw.uniform(0.0, STARTING if early else STEPS * PACE), any_process)


def command(trial: Trial, folder: Path) -> list[str]:
    """What starts the ranks as this policy wants it."""
    arguments = [*MODEL, "--sync", trial.sync, *SYNCS[trial.sync], "--run-dir", str(folder)]
    if trial.policy in (SHRINK, SUPERVISED):
        arguments += ["--on-failure", "shrink", "--copy-every", str(COPY_EVERY)]
    start = supervised if trial.policy in (RESTART, SUPERVISED) else plain
    return start(RANKS, arguments)


def named(ended: Ended, rank: int | None) -> bool:
    """Whether it was said who was killed, and by what; `rank` None: by what, in the launcher's words or ours."""
    if rank is None:
        return any(
            word in ended.stderr + ended.stdout for word in ("SIGKILL", "signal 9", "did not end before")
        )
    return f"rank {rank} " in ended.stderr and "SIGKILL" in ended.stderr


def compare(trial: Trial, facts: dict[str, Any], rank: int | None, expected: Expected) -> list[str]:
    """What is wrong with the result of a run, in which this rank was killed."""
    if not facts:
        return ["no summary"]
    losses = facts.get("losses", [])
    wrong = [f"the summary says that {loss['ranks']} were lost" for loss in losses if loss["ranks"] != [rank]]
    if len(losses) > 1:
        wrong.append(f"{len(losses)} losses")
    done = losses[0]["goes_on_after"] if losses else STEPS
    if done % COPY_EVERY:
        wrong.append(f"went on after step {done}, of which there is no copy")
    if wrong:
        return wrong
    lost = (rank,) if losses and rank is not None else ()
    if trial.sync not in VARYING:
        same = facts["params_sha256"] == expected.after(lost, done)["params_sha256"]
        return [] if same else [f"other bits than those of the same steps on threads, lost after step {done}"]
    made, due = sum(facts["staleness"].values()), RANKS * done + (RANKS - 1) * (STEPS - done)
    if made != due:
        wrong.append(f"{made} updates instead of {due}")
    least, most = expected.losses(lost, done)
    if not least <= facts["validation_loss"] <= most:
        wrong.append(f"a validation loss of {facts['validation_loss']:.4f}, not {least:.4f} to {most:.4f}")
    return wrong


def unlike(metrics: Path) -> list[str]:
    """What is wrong with the lines of the steps that were logged."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines if "train_loss" in line]
    due = [t for t in range(1, STEPS + 1) if t % SAVE_EVERY == 0 or t % 10 == 0 or t == STEPS]
    return [] if steps == due else [f"metrics.jsonl has steps {steps}, not {due}"]
