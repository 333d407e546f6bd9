"""Checkpoints: whole or not there at all."""

import json

import numpy as np
import pytest

from mpidp import checkpoint
from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.errors import UserError


def arrays_of(rank, step=0):
    return {"params": np.arange(5.0) + rank + 100 * step, "state.momentum": np.full(5, rank, np.float32)}


def save(folder, step, ranks=2, keep=2, own=lambda rank: True):
    def body(comm):
        arrays = arrays_of(comm.rank, step) if own(comm.rank) else {}
        return checkpoint.save(comm, folder, step, arrays, {"collective": "ring"}, keep)

    return run_ranks(ranks, body)


def load(folder, ranks=2):
    path, manifest = checkpoint.latest(folder)
    return manifest["step"], run_ranks(ranks, lambda comm: checkpoint.Files(comm, path, manifest).own())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_rank_gets_back_what_it_wrote(tmp_path):
    assert save(tmp_path, 7) == [None, None]
    step, loaded = load(tmp_path)
    assert step == 7
    for rank, arrays in enumerate(loaded):
        assert arrays.keys() == arrays_of(rank).keys()
        assert all(
            (arrays[k] == v).all() and arrays[k].dtype == v.dtype for k, v in arrays_of(rank, 7).items()
        )


def test_a_rank_that_wrote_nothing_gets_rank_0_s(tmp_path):
    save(tmp_path, 7, own=lambda rank: rank == 0)
    _, loaded = load(tmp_path, ranks=3)
    assert all((arrays["params"] == loaded[0]["params"]).all() for arrays in loaded)


def test_any_number_of_ranks_reads_what_any_rank_wrote(tmp_path):
    save(tmp_path, 7)
    path, manifest = checkpoint.latest(tmp_path)
    for arrays in run_ranks(3, lambda comm: checkpoint.Files(comm, path, manifest).of(1)):
        assert (arrays["params"] == arrays_of(1, 7)["params"]).all()


def test_the_last_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert checkpoint.latest(tmp_path)[1]["step"] == 10


def test_what_has_no_manifest_does_not_count(tmp_path):
    """However far a killed run came with its next checkpoint, the one before is taken."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    (tmp_path / ".step-00000003.partial").mkdir()
    assert load(tmp_path)[0] == 1
    checkpoint.remove_partial(tmp_path)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("file", ["rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"])
def test_a_checkpoint_damaged_at_any_byte_is_refused(tmp_path, file):
    save(tmp_path, 1)
    path = tmp_path / "step-00000001" / file
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytes([whole[position] ^ 1])
        for damage in (whole[:position], whole[:position] + flipped + whole[position + 1 :]):
            path.write_bytes(damage)
            with pytest.raises(UserError, match=r"is damaged|has format"):
                load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001" / "rank-00001.safetensors").unlink()
    with pytest.raises(SharedError, match=r"rank 1: .*rank-00001\.safetensors.*delete that folder"):
        load(tmp_path)


def test_another_format_is_refused(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / "step-00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        load(tmp_path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.latest(tmp_path / "nothing")


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, arrays):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    errors = save(tmp_path, 2)
    assert all("No space left on device" in error for error in errors)
    assert names(tmp_path) == ["step-00000001"]
    assert load(tmp_path)[0] == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    errors = save(tmp_path / "file", 1)
    assert all("Not a directory" in error or "exists" in error for error in errors)
