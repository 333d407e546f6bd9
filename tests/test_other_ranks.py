"""`--resume` on another number of ranks, from the files of a checkpoint."""

import pytest

from mpidp.comm import run_ranks as run_threads
from mpidp.train import train as train_on
from mpidp.workspace import configure
from tests.crash import failing, once_saved
from tests.launch import run_ranks
from tests.test_train import losses, summary, train

MODEL = (
    "--model mlp --data synthetic-classes --features 5 --classes 3 --samples 200 --hidden 16 --batch-size 24 "
    "--lr 0.01 --steps 12 --checkpoint-every 4 --log-every 1 --timeout 60 --blas numpy --json"
).split()
SYNCS = {
    "allreduce": ["--compress", "topk", "--density", "0.3"],
    "adasum": [],
    "sharded": ["--clip", "0.5"],
    "server": ["--servers", "1", "--consistency", "asynchronous", "--delay-compensation", "0.1"],
    "averaging": ["--period", "3", "--outer", "sgd"],
    "streaming": ["--period", "6", "--compress", "int8"],
    "elastic": ["--period", "3"],
    "gossip": ["--graph", "random", "--mixing", "push-sum"],
    "onesided": [],
    "none": [],
}


def options(sync, folder):
    return [*MODEL, "--sync", sync, *SYNCS[sync], "--run-dir", str(folder)]


def on_threads(ranks: int, arguments) -> dict:
    """The summary of a run on so many threads."""

    def body(ours):
        config, folder, resumed = configure(ours, arguments)
        return train_on(config, ours, folder, resumed)

    return run_threads(ranks, body)[0]


@pytest.mark.parametrize("sync", SYNCS)
def test_fewer_and_then_more_ranks(tmp_path, sync):
    args = options(sync, tmp_path / "run")
    on_threads(4, [*args, "--steps", "4"])
    assert on_threads(3, [*args, "--steps", "8", "--resume"])["ranks_before"] == 4
    facts = on_threads(5, [*args, "--resume"])
    assert (facts["ranks"], facts["ranks_before"], facts["resumed_from"]) == (5, 3, 8)
    assert facts["validation_loss"] < facts["validation_loss_before"]
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 13))


@pytest.mark.parametrize(
    ("sync", "asked"),
    [("allreduce", ["--noise-scale", "--slow", "2:2"]), ("averaging", ["--consensus-every", "2"])],
)
def test_what_was_asked_of_several_ranks_is_not_asked_of_one(tmp_path, sync, asked):
    args = [*MODEL, "--sync", sync, "--run-dir", str(tmp_path / "run"), *asked]
    on_threads(3, [*args, "--steps", "4"])
    assert on_threads(1, [*args, "--steps", "8", "--resume"])["resumed_from"] == 4


@pytest.mark.parametrize("sync", ["server", "averaging"])
def test_killed_on_4_ranks_it_goes_on_with_3_and_then_with_2(tmp_path, sync):
    args = options(sync, tmp_path / "run")
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    first, second = (once_saved(tmp_path / "run", step, kill) for step in (4, 8))
    assert run_ranks(4, ["-c", failing(first, 7, 3), *args]).returncode != 0
    again = run_ranks(3, ["-c", failing(second, 10, 1), *args, "--resume"])
    assert again.returncode != 0 and "goes on after step 4, saved by 4 ranks" in again.stdout + again.stderr
    finished = run_ranks(2, train(*args, "--resume"))
    facts = summary(finished)
    assert (facts["ranks"], facts["ranks_before"], facts["resumed_from"]) == (2, 3, 8)
    assert "2; 3 up to step 8" in finished.stdout
    assert facts["validation_loss"] < facts["validation_loss_before"]
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 13))
