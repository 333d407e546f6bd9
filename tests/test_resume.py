"""`--resume` as users meet it: whole programs, with ranks as threads."""

import errno
import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mpidp.checkpoint import tensors
from mpidp.claim import Claim
from mpidp.comm import run_ranks
from mpidp.errors import UserError
from mpidp.takeover import BOUNDS
from mpidp.train import run
from tests.checkpoint.saving import names
from tests.checkpoint.test_reading import rewrite

MLP = [
    "--model", "mlp", "--data", "synthetic-classes", "--samples", 90, "--batch-size", 18, "--hidden", "8",
    "--schedule", "constant", "--collective", "ring", "--checkpoint-every", 2, "--keep-checkpoints", 9,
    "--log-every", 1,
]  # fmt: skip


def train(folder, *args, ranks=2):
    options = [str(arg) for arg in (*args, "--run-dir", folder)]
    assert run_ranks(ranks, lambda comm: run(comm, options), timeout=60) == [0] * ranks
    return json.loads((folder / "summary.json").read_text())


def refused(folder, *args, ranks=2):
    with pytest.raises(UserError) as refusal:
        train(folder, "--resume", *args, ranks=ranks)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train_loss"]) for line in lines]


def test_resumed_twice_and_then_for_longer(tmp_path):
    whole = train(tmp_path / "whole", *MLP, "--steps", 10)
    part = tmp_path / "part"
    train(part, *MLP, "--steps", 6)
    again = train(part, "--resume")  # a run that has ended
    assert again["resumed_from"] == 6 and again["steps"] == 6
    assert train(part, "--resume", "--steps", 8)["resumed_from"] == 6
    last = train(part, "--resume", "--steps", 10)
    assert last["resumed_from"] == 8 and last["params_sha256"] == whole["params_sha256"]
    assert losses(part) == losses(tmp_path / "whole")
    assert last["checkpoints_written"] == 1 and last["checkpoints_failed"] == 0


def test_the_loss_of_the_checkpoint_s_step_is_not_lost(tmp_path):
    """A run may be cut off before that line is written, since a checkpoint waits for no rank's loss."""
    whole = train(tmp_path / "run", *MLP, "--steps", 6)
    before = losses(tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]) + '{"step": 6, "tra')
    assert train(tmp_path / "run", "--resume")["train_loss"] == whole["train_loss"]
    assert losses(tmp_path / "run") == before


def test_the_damaged_one_is_skipped_where_that_is_allowed(tmp_path, capsys):
    folder = tmp_path / "run"
    whole = train(folder, *MLP, "--steps", 6)
    (newest(folder) / "rank-00000.safetensors").write_bytes(b"")
    line = refused(folder)
    assert "step-00000006 is damaged (rank-00000.safetensors is not what was written)" in line
    assert "--skip-damaged" in line
    capsys.readouterr()
    again = train(folder, "--resume", "--skip-damaged")
    assert again["resumed_from"] == 4 and again["params_sha256"] == whole["params_sha256"]
    said = capsys.readouterr().out
    assert said.count("step-00000006 is damaged") == 1 and "kept as step-00000006.damaged" in said
    assert {"step-00000006", "step-00000006.damaged"} < set(names(folder / "checkpoints"))
    assert train(folder, "--resume")["resumed_from"] == 6  # the option is not remembered, nor needed


def test_skipping_needs_resuming(tmp_path):
    with pytest.raises(UserError, match=r"--skip-damaged .* add --resume"):
        train(tmp_path / "run", *MLP, "--steps", 2, "--skip-damaged")


def test_another_run_s_checkpoint_is_named_as_such(tmp_path):
    train(tmp_path / "run", *MLP, "--steps", 2)
    for how, words in [
        (["--hidden", "9"], "it was trained with --hidden 9, not 8"),
        (["--sync", "averaging"], "it was trained with --sync averaging, not allreduce"),
        (["--model", "logistic"], "it was trained with --model logistic, not mlp"),
    ]:
        other = tmp_path / how[1]
        options = [option for option in MLP if option not in ("--hidden", "8") or "logistic" not in how]
        train(other, *options, *how, "--steps", 4)
        newest(other).rename(tmp_path / "run" / "checkpoints" / "step-00000004")
        line = refused(tmp_path / "run", "--skip-damaged")
        assert f"step-00000004 is of another run: {words}" in line
        os.rename(tmp_path / "run" / "checkpoints" / "step-00000004", tmp_path / "taken")
        subprocess.run(["rm", "-r", tmp_path / "taken"], check=True)


def spoilt(arrays, names):
    kinds = {
        "short": lambda x: x[:-1],
        "one": lambda x: x[:1],
        "deep": lambda x: x[None],
        "double": lambda x: x.astype(np.float64),
        "whole": lambda x: x.astype(np.int8),
    }
    for name in set(names) - {BOUNDS}:  # which nobody asks for where the ranks are as many
        yield from (arrays | {name: spoil(arrays[name])} for spoil in kinds.values() if arrays[name].size > 1)
        yield {other: array for other, array in arrays.items() if other != name}


@pytest.mark.parametrize("sync", ["allreduce", "sharded", "averaging"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_state_that_does_not_fit_is_refused(tmp_path, sync, ranks):
    """However well it is sealed: no crash, no number stretched over a vector, and nothing left out."""
    train(tmp_path / "run", *MLP, "--sync", sync, "--steps", 2)
    path = newest(tmp_path / "run")
    file = path / "rank-00000.safetensors"
    files, whole = json.loads((path / "manifest.json").read_text())["files"], tensors.read(file)
    for arrays in list(spoilt(whole, whole if ranks == 2 else ["params"])):
        digest, _ = tensors.write(file, {name: np.ascontiguousarray(x) for name, x in arrays.items()})
        rewrite(path, files=files | {file.name: digest})
        refused(tmp_path / "run", ranks=ranks)


def test_a_manifest_of_other_figures(tmp_path):
    train(tmp_path / "run", *MLP, "--steps", 2, "--noise-scale")
    path = newest(tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    for noise in ([], [1, 2], "abc", None, 3):
        rewrite(path, diagnostics={"noise": noise})
        assert "has not the state" in refused(tmp_path / "run", "--noise-scale")
    rewrite(path, **manifest | {"collective": "nonsense"})
    assert train(tmp_path / "run", "--resume", "--noise-scale")["collective"] == "ring"


def test_one_run_at_a_time(tmp_path, monkeypatch):
    """The claim ends with the process that has it, whatever it leaves in the file."""
    folder = tmp_path / "run"
    train(folder, *MLP, "--steps", 2)
    program = textwrap.dedent(f"""
        from pathlib import Path
        from mpidp.claim import Claim
        claim = Claim(Path({str(folder)!r}))
        print("mine", flush=True)
        input()
    """)
    monkeypatch.setattr("mpidp.claim.PATIENCE", 0.2)
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"mine\n"
        line = refused(folder)
        assert "another run is at work in it" in line and f"process {other.pid} on host" in line
    finally:
        other.kill()
        other.communicate()
    assert json.loads((folder / ".lock").read_text())[1] == other.pid  # what it said is still there
    assert train(folder, "--resume")["resumed_from"] == 2


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    Claim(tmp_path)


def test_what_is_in_the_lock_file_does_not_matter(tmp_path):
    for text in (b"", b"\xff", b"[" * 10**5, b'["host", "pid"]'):
        (tmp_path / ".lock").write_bytes(text)
        Claim(tmp_path).release()


ODD = [None, True, -1, 1e308, float("nan"), float("inf"), "x", [], {}, [[]], {"a": 1}, 10**400, [None] * 5]


def mutated(value, rng):
    """A value in which one thing, at any depth, is another or not there."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        if rng.random() < 0.2:
            return {other: each for other, each in value.items() if other != name}
        return value | {name: mutated(value[name], rng)}
    return rng.choice(ODD)


def test_any_figures_in_a_sealed_manifest(tmp_path):
    """The run goes on, or is refused in one line."""
    rng = random.Random(1)
    asked = ["--noise-scale", "--on-nonfinite", "skip"]
    train(tmp_path / "run", *MLP, *asked, "--steps", 2)
    path = newest(tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    ends = []
    for _ in range(60):
        name = rng.choice(["last", "numbers", "diagnostics", "options", "files", "validation_loss_before"])
        rewrite(path, **manifest | {name: mutated(manifest[name], rng)})
        try:
            train(tmp_path / "run", "--resume")
            ends.append("gone on")
        except UserError as error:
            assert "--resume: " in str(error) and "\n" not in str(error)
            ends.append("refused")
    assert min(ends.count("gone on"), ends.count("refused")) > 10
