"""Checkpoints written while training goes on: whole or not there at all."""

import errno
import json
import threading
import time

import numpy as np
import pytest

from mpidp import checkpoint
from mpidp.checkpoint import background, tensors
from mpidp.comm import run_ranks
from tests.checkpoint.saving import arrays_of, facts, load, names, save

write = tensors.write


def test_the_last_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 10, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert load(tmp_path)[0] == 10


def test_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    """Arrays change at once, and what is written is what they were."""
    go_on = threading.Event()
    monkeypatch.setattr(tensors, "write", lambda *args: go_on.wait(10) and write(*args))

    def body(comm):
        saving = checkpoint.Checkpoints(comm, tmp_path, 2)
        arrays = arrays_of(comm.rank, 3)
        assert saving.save(3, arrays, facts) < 1
        arrays["params"][:] = -1
        assert list(saving.ended()) == []
        comm.Barrier()
        go_on.set()
        return saving.finish(), list(saving.ended())

    assert run_ranks(2, body) == [(None, [(3, None)]), (None, [])]
    for rank, arrays in enumerate(load(tmp_path)[1]):
        assert (arrays["params"] == arrays_of(rank, 3)["params"]).all()


def test_it_is_complete_though_main_threads_do_nothing_more(tmp_path):
    def body(comm):
        checkpoint.Checkpoints(comm, tmp_path, 2).save(1, arrays_of(comm.rank), facts)
        limit = time.monotonic() + 10
        while not (tmp_path / "step-00000001").exists() and time.monotonic() < limit:
            time.sleep(0.01)

    run_ranks(3, body)
    assert load(tmp_path, ranks=3)[0] == 1


def test_one_is_under_way_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "write", lambda *args: time.sleep(0.2) or write(*args))

    def body(comm):
        saving = checkpoint.Checkpoints(comm, tmp_path, 5)
        waits = [saving.save(step, arrays_of(comm.rank, step), facts) for step in (1, 2)]
        saving.finish()
        return waits

    for first, second in run_ranks(2, body):
        assert first < 0.1 < second
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_rank_may_be_a_checkpoint_ahead(tmp_path):
    """Rank 1 begins the second when rank 0 has not come to the first."""

    def body(comm):
        saving = checkpoint.Checkpoints(comm, tmp_path, 5)
        if comm.rank == 0:
            time.sleep(0.2)
        for step in (1, 2):
            saving.save(step, arrays_of(comm.rank, step), facts, [comm.rank])
        saving.finish()

    run_ranks(2, body)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    manifest = json.loads((tmp_path / "step-00000002" / "manifest.json").read_text())
    assert manifest["parts"] == [[0], [1]]


@pytest.mark.parametrize("where", ["write", "mkdir", "finish"])
def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, monkeypatch, where):
    save(tmp_path, 1)

    def full(path, *args, **how):
        if where == "write" and path.name != "rank-00001.safetensors":
            return write(path, *args)
        if where == "write":
            path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    place = {
        "write": (tensors, "write"),
        "mkdir": (background.Path, "mkdir"),
        "finish": (background, "finish"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*place[where], full)
        errors = run_ranks(2, body_that_fails, tmp_path)
    rank = {"write": "rank 1: ", "mkdir": "rank 0: ", "finish": ""}[where]
    assert all(error.startswith(f"{rank}No space left on device") for error in errors)
    assert names(tmp_path) == ["step-00000001"]
    assert load(tmp_path)[0] == 1
    save(tmp_path, 3)  # and with room again it goes on
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def body_that_fails(comm, folder):
    saving = checkpoint.Checkpoints(comm, folder, 2)
    saving.save(2, arrays_of(comm.rank, 2), facts)
    error = saving.finish()
    assert saving.figures()[:2] == ([0, 1] if comm.rank == 0 else [0, 0])
    return error


def test_a_run_directory_that_was_removed_is_not_made_again(tmp_path):
    def body(comm):
        saving = checkpoint.Checkpoints(comm, tmp_path / "run" / "checkpoints", 2)
        saving.save(1, arrays_of(comm.rank), facts)
        return saving.finish()

    assert "No such file" in run_ranks(2, body)[0]
    assert names(tmp_path) == []


def test_a_file_that_rank_0_does_not_see(tmp_path, monkeypatch):
    """As where hosts have folders of their own."""
    monkeypatch.setattr(background, "SEEN_LATE", 0.1)

    def elsewhere(path, arrays):
        if path.name == "rank-00001.safetensors":
            path = tmp_path / "elsewhere"
        return write(path, arrays)

    monkeypatch.setattr(tensors, "write", elsewhere)
    (error, _) = save(tmp_path / "run", 1)
    assert "rank 1 has written rank-00001.safetensors, which rank 0 does not see" in error


def test_whatever_a_killed_run_left_does_not_matter(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.0a1b2c3d.partial").mkdir()
    (tmp_path / ".step-00000002.0a1b2c3d.partial" / "rank-00005.safetensors").write_text("half")
    assert load(tmp_path)[0] == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_step_that_is_made_again_replaces_its_checkpoint(tmp_path):
    save(tmp_path, 1, 2, ranks=3)
    save(tmp_path, 2, ranks=2)
    assert names(tmp_path / "step-00000002") == [
        "manifest.json",
        "rank-00000.safetensors",
        "rank-00001.safetensors",
    ]
    assert load(tmp_path)[0] == 2


def test_no_memory_for_the_copy(tmp_path, monkeypatch):
    def none(*args):
        raise MemoryError

    monkeypatch.setattr(checkpoint.Checkpoints, "copy", none)
    assert "rank 0: no memory for the copy" in save(tmp_path, 1)[0]
    assert names(tmp_path) == []


def test_copies_are_made_in_the_same_memory(tmp_path):
    def body(comm):
        saving = checkpoint.Checkpoints(comm, tmp_path, 2)
        saving.save(1, {"params": np.zeros(9)}, facts)
        before = saving.copies["params"]
        saving.save(2, {"params": np.ones(9)}, facts)
        return before is saving.copies["params"]

    assert run_ranks(1, body) == [True]


def test_a_damaged_one_is_kept_but_counts_no_more(tmp_path):
    save(tmp_path, 1, 2)
    run_ranks(2, lambda comm: checkpoint.Checkpoints(comm, tmp_path, 2, [tmp_path / "step-00000002"]))
    assert names(tmp_path) == ["step-00000001", "step-00000002.damaged"]
    save(tmp_path, 3, 4)
    assert names(tmp_path) == ["step-00000002.damaged", "step-00000003", "step-00000004"]
