"""Kill a rank of a small run, and see that the run ends as promised: `survive(Trial(...), folder)`."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from mpidp.comm import Communicator, run_ranks
from mpidp.train import train
from mpidp.workspace import configure
from tests.faults.victim import PHASES, Fault
from tests.launch import MARK, ROOT, find_mpiexec, launch_environment, marked_processes

RANKS = 3
STEPS, SAVE_EVERY = 12, 4
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
VARYING = {"onesided"}  # strategies whose bits depend on who is late, as they are set here
OUTSIDE = "outside"  # a phase: the harness kills a process of a rank, at a random moment
LIMIT = 90.0  # seconds: beyond it, a run hangs
BOUND = 0.10
"""How far the validation loss of a run that went on with fewer ranks may be from the uninterrupted run's, as a share of
what training gained."""


@dataclass
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
    problems: list[str]
    text: str = ""


@dataclass
class Ended:
    code: int
    stdout: str
    stderr: str
    seconds: float
    late: bool
    processes: list[str]  # that it left
    segments: list[str]  # in /dev/shm

    def summary(self) -> dict:
        for line in reversed(self.stdout.splitlines()):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    return found
        return {}


def trials(policies: tuple[str, ...], seed: int) -> list[Trial]:
    """Every strategy and phase under every policy, and kills from outside."""
    return [
        Trial(sync, policy, phase, seed)
        for phase in (*PHASES, OUTSIDE)
        for policy in policies
        for sync in SYNCS
    ]


def survive(trial: Trial, folder: Path, undisturbed: dict) -> Outcome:
    """Run it; `undisturbed`: the summary of a run of this strategy that nothing happens to."""
    draw = random.Random(str(trial))
    once = folder / "struck"
    fault = Fault(
        rank=draw.randrange(RANKS),
        phase=trial.phase,
        step=SAVE_EVERY if trial.phase == "saving" else draw.randint(1, STEPS),
        once=str(once),
        turn=draw.randint(1, 12),
        pace=0.05 if trial.phase == OUTSIDE else 0.0,
    )
    outside = draw.uniform(0.3, 2.0) if trial.phase == OUTSIDE else None
    ended = launch(trial.policy, options(trial.sync, folder / "run"), fault, outside, draw)
    problems = []
    if ended.late:
        problems.append(f"it was still running after {LIMIT:g} s")
    if trial.phase != OUTSIDE and not once.exists():
        problems.append("nobody was killed")
    # A job that mpirun ends leaves MPICH's segments there, which nobody of its own could remove.
    left = ended.processes + (ended.segments if trial.policy != "abort" else [])
    problems += [f"it left {name}" for name in left]
    killed = once.exists() or ended.code != 0 or ": restart " in ended.stderr
    if trial.policy == "abort":
        if killed and (
            ended.code == 0 or f"rank {fault.rank} " not in ended.stderr or "SIGKILL" not in ended.stderr
        ):
            problems.append("the cause was not named")
    elif ended.code != 0:
        problems.append(f"exit code {ended.code}")
    else:
        problems += compare(trial, ended.summary(), undisturbed)
    if "Traceback" in ended.stderr:
        problems.append("a traceback")
    told = f"fault: {fault}, {outside}\n-- stdout --\n{ended.stdout[-2000:]}\n-- stderr --\n{ended.stderr[-4000:]}"
    return Outcome(trial, ended.seconds, problems, told)


def compare(trial: Trial, facts: dict, undisturbed: dict) -> list[str]:
    """What is wrong with the result."""
    if not facts:
        return ["no summary"]
    if trial.policy == "restart" and trial.sync not in VARYING:
        same = facts["params_sha256"] == undisturbed["params_sha256"]
        return [] if same else ["other bits than those of an uninterrupted run"]
    gained = undisturbed["validation_loss_before"] - undisturbed["validation_loss"]
    apart = abs(facts["validation_loss"] - undisturbed["validation_loss"]) / gained
    return (
        []
        if apart <= BOUND
        else [f"the loss is {apart:.0%} of what training gained from the uninterrupted run's"]
    )


def options(sync: str, folder: Path) -> list[str]:
    return [*MODEL, "--sync", sync, *SYNCS[sync], "--run-dir", str(folder)]


def undisturbed(sync: str, folder: Path) -> dict:
    """The summary of a run that nothing happens to, on threads: of the same bits."""

    def body(comm: Communicator) -> dict:
        config, run, resumed = configure(comm, options(sync, folder))
        with contextlib.redirect_stdout(io.StringIO()):
            return train(config, comm, run, resumed)

    return run_ranks(RANKS, body)[0]


def launch(
    policy: str, arguments: list[str], fault: Fault, outside: float | None, draw: random.Random
) -> Ended:
    """Start the ranks as this policy wants it, kill one of them, and wait for the end."""
    program = ["-m", "tests.faults.victim"]
    if policy == "restart":
        code = f"import sys; from mpidp.launch.__main__ import main; sys.exit(main(sys.argv[1:], {program}))"
        command = [sys.executable, "-c", code, "-n", str(RANKS), "--backoff", "0.05", "--", *arguments]
    else:
        arguments += ["--on-failure", policy, *(["--copy-every", "2"] if policy == "shrink" else [])]
        command = [find_mpiexec(), "-n", str(RANKS), sys.executable, *program, *arguments]
    mark = uuid.uuid4().hex
    environment = launch_environment(fault.to_env()) | {MARK: mark}
    if policy == "shrink":
        environment["PRTE_MCA_state_base_recoverable"] = "1"
    with tempfile.TemporaryDirectory(prefix="mpidp-faults-") as text:
        files = [Path(text) / name for name in ("out", "err", "shm")]
        began = time.monotonic()
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = subprocess.Popen(
                [*with_own_memory(files[2]), *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=ROOT, start_new_session=True,
            )  # fmt: skip
            late = False
            try:
                if outside is not None:
                    time.sleep(outside)
                    kill_a_rank(mark, draw)
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                late = True
            seconds = time.monotonic() - began
            left = processes_left(mark, 5.0 if not late else 0.0)
            process.wait(10)
        segments = files[2].read_text().split() if files[2].exists() else []
        out_text, err_text = (file.read_text(errors="replace") for file in files[:2])
    return Ended(process.returncode, out_text, err_text, seconds, late, left, segments)


def with_own_memory(listing: Path) -> list[str]:
    """What runs a command with a /dev/shm of its own, and lists what is left there, where this user may have one."""
    script = 'mount -t tmpfs tmpfs /dev/shm && { "$@"; code=$?; ls -A /dev/shm >"$LISTING"; exit $code; }'
    allowed = shutil.which("unshare") and os.geteuid() == 0
    if (
        not allowed
        or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode
    ):
        return []
    return ["env", f"LISTING={listing}", "unshare", "--mount", "sh", "-c", script, "sh"]


def kill_a_rank(mark: str, draw: random.Random) -> None:
    """SIGKILL to a process that belongs to a rank: the rank itself, or the guard in front of it."""
    ranks = []
    for pid in marked_processes(mark):
        with contextlib.suppress(OSError):
            command, environ = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
            is_rank = any(name in environ for name in (b"\0PMI_RANK=", b"\0OMPI_COMM_WORLD_RANK="))
            if is_rank and b"tests.faults.victim" in command:
                ranks.append(pid)
    if ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(sorted(ranks)), signal.SIGKILL)


def processes_left(mark: str, patience: float) -> list[str]:
    """Those that live on `patience` seconds after the launcher, ended."""
    limit = time.monotonic() + patience
    while (left := marked_processes(mark)) and time.monotonic() < limit:
        time.sleep(0.02)
    names = []
    for pid in left:
        with contextlib.suppress(OSError):
            names.append(
                f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ')[:60]!r}"
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return names
