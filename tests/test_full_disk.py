"""A disk that takes nothing more, or a folder that is gone: training goes on, and nothing older is lost."""

import subprocess
from pathlib import Path

import pytest

from tests.checkpoint.saving import names
from tests.crash import failing
from tests.launch import run_alone, run_ranks
from tests.test_train import error_line, summary, train

MLP = [
    "--model", "mlp", "--data", "synthetic-classes", "--hidden", "64", "--collective", "ring", "--steps", 12,
    "--checkpoint-every", 2, "--keep-checkpoints", 9, "--log-every", 1, "--json",
]  # fmt: skip
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
"""From now on a file of this process takes 2000 bytes: more than a manifest has, less than the arrays."""


WRITTEN = (
    "import time; there = os.path.join(job.config.run.run_dir, 'checkpoints', 'step-00000004'); "
    "[time.sleep(0.01) for _ in range(999) if not os.path.isdir(there)]; "
)
"""Waits until the checkpoint before is complete."""


def with_a_mishap(statement, rank, *args):
    return ["-c", failing(WRITTEN + statement, step=5, rank=rank), *map(str, [*MLP, *args])]


def warnings(finished):
    return [line for line in finished.stdout.splitlines() if line.startswith("warning")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return summary(run_alone(train(*MLP, "--run-dir", tmp_path_factory.mktemp("whole") / "run")))


def test_a_rank_that_cannot_write_its_part(tmp_path):
    """The others can: the checkpoint is none all the same, and its folder is removed."""
    run = tmp_path / "run"
    args = ["--sync", "sharded", "--run-dir", run]
    finished = run_ranks(2, with_a_mishap(FULL, 1, *args))
    facts = summary(finished)
    assert facts["checkpoints_written"] == 2 and facts["checkpoints_failed"] == 4
    assert warnings(finished) == [
        f"warning: no checkpoint at step {t}: rank 1: File too large; training goes on"
        for t in (6, 8, 10, 12)
    ]
    assert names(run / "checkpoints") == ["step-00000002", "step-00000004"]
    again = summary(run_ranks(2, train("--resume", "--run-dir", run, "--json")))
    assert again["resumed_from"] == 4 and again["params_sha256"] == facts["params_sha256"]


def test_a_full_disk_until_the_end(tmp_path, whole):
    """Not even the model can be written, nor anywhere else: the last checkpoint is whole, and the line says so."""
    run = tmp_path / "run"
    finished = run_alone(with_a_mishap(FULL, 0, "--run-dir", run))
    line = error_line(finished)
    assert f"the merged model cannot be written into {run} (" in line and "too large" in line.lower()
    assert "nor into the folder for temporary files" in line
    assert "--resume goes on from step-00000004 and writes it" in line
    assert sum("rank 0: File too large" in text for text in warnings(finished)) == 4
    assert names(run / "checkpoints") == ["step-00000002", "step-00000004"]
    assert not [name for name in names(run) if name.endswith(".partial")]
    again = summary(run_alone(train("--resume", "--run-dir", run, "--json")))
    assert again["resumed_from"] == 4 and again["params_sha256"] == whole["params_sha256"]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12 and all(line.endswith("}") for line in lines)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", disk], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"this machine mounts no file system for us: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_the_model_is_kept_elsewhere(tmp_path, small_disk, whole):
    run = small_disk / "run"
    finished = run_alone(train(*MLP, "--run-dir", run), env={"TMPDIR": str(tmp_path)})
    line = error_line(finished)
    kept = Path(line.split("it is in ")[1].split(" instead")[0])
    assert kept.parent.parent == tmp_path and "No space left on device" in line
    scores = run_alone(["-m", "mpidp.evaluate", "--run", kept.parent]).check().stdout
    assert f"loss {whole['validation_loss']:.6f}" in scores
    assert whole["params_sha256"] in (kept.parent / "summary.json").read_text()
    assert any("No space left on device" in text for text in warnings(finished))
    first = names(run / "checkpoints")
    assert first[0] == "step-00000002" and not any("partial" in name for name in first)


def test_a_run_directory_that_is_removed(tmp_path, whole):
    """Its end is there all the same."""
    run = tmp_path / "run"
    remove = f"import shutil; shutil.rmtree({str(run)!r})"
    facts = summary(finished := run_alone(with_a_mishap(remove, 0, "--run-dir", run)))
    assert facts["params_sha256"] == whole["params_sha256"] and facts["checkpoints_failed"] == 4
    assert (
        sum("No such file or directory; training goes on" in text for text in warnings(finished)) == 5
    )  # one of metrics.jsonl
    assert names(run) == ["config.toml", "model.safetensors", "summary.json"]


def test_standard_output_on_a_full_disk(tmp_path):
    """As with `> log` beside the run: what it says is lost, and no more, unless it is what was asked for."""
    full = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    program = full + "from mpidp.train import main; sys.exit(main())"
    args = [*map(str, MLP[:-1])]
    finished = run_alone(["-c", program, *args, "--run-dir", tmp_path / "one"])
    assert finished.check().stderr == "" and (tmp_path / "one" / "model.safetensors").exists()
    asked = run_alone(["-c", program, *args, "--json", "--run-dir", tmp_path / "two"])
    assert asked.returncode == 1 and "Traceback" not in asked.stderr
    assert (
        asked.stderr.count("the summary cannot be written to standard output (No space left on device)") == 1
    )
