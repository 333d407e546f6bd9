"""What is read back is what was written, or it is refused in one clear line."""

import json
import os

import pytest

from mpidp import checkpoint
from mpidp.checkpoint import manifest as manifests
from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.errors import UserError
from tests.checkpoint.saving import accept, arrays_of, load, names, save


def rewrite(path, **changes):
    """A manifest that says something else, sealed as if it were ours."""
    said = json.loads((path / "manifest.json").read_text()) | changes
    said = {name: value for name, value in said.items() if value is not None}
    text = json.dumps(said | {"seal": manifests.seal(said)})
    (path / "manifest.json").write_text(text)


def test_every_rank_gets_back_what_it_wrote(tmp_path):
    assert save(tmp_path, 7) == [None, None]
    step, loaded, skipped = load(tmp_path)
    assert step == 7 and skipped == []
    for rank, arrays in enumerate(loaded):
        assert arrays.keys() == arrays_of(rank).keys()
        assert all(
            (arrays[k] == v).all() and arrays[k].dtype == v.dtype for k, v in arrays_of(rank, 7).items()
        )


def test_a_rank_that_wrote_nothing_gets_rank_0_s(tmp_path):
    save(tmp_path, 7, own=lambda rank: rank == 0)
    _, loaded, _ = load(tmp_path, ranks=3)
    assert all((arrays["params"] == loaded[0]["params"]).all() for arrays in loaded)


def test_any_number_of_ranks_reads_what_any_rank_wrote(tmp_path):
    save(tmp_path, 7)

    def body(comm):
        path, manifest, _ = checkpoint.find(comm, tmp_path, False, accept)
        return checkpoint.Files(comm, path, manifest).of(1)

    for arrays in run_ranks(3, body):
        assert (arrays["params"] == arrays_of(1, 7)["params"]).all()


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


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "truncated": ("rank-00001.safetensors", cut, "rank-00001.safetensors is not what was written"),
    "missing": ("rank-00001.safetensors", os.unlink, "rank-00001.safetensors: no such file"),
    "a pipe": ("rank-00001.safetensors", a_pipe, "rank-00001.safetensors: no such file"),
    "no manifest": ("manifest.json", os.unlink, "manifest.json: no such file"),
    "deep": ("manifest.json", lambda path: path.write_text("[" * 10**5), "nested too deep"),
    "text": ("manifest.json", lambda path: path.write_bytes(b"\xff{}"), "manifest.json: "),
    "a list": ("manifest.json", lambda path: path.write_text("[1]"), "no JSON object"),
    "empty": ("manifest.json", lambda path: path.write_text("{}"), "says nothing of 'format'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_taken_where_the_user_allows_it(tmp_path, damage):
    file, do, words = DAMAGES[damage]
    save(tmp_path, 1, 2)
    do(tmp_path / "step-00000002" / file)
    with pytest.raises(SharedError, match="is damaged") as refusal:
        load(tmp_path)
    assert words in str(refusal.value) and "--skip-damaged" in str(refusal.value)
    step, loaded, skipped = load(tmp_path, skip=True)
    assert step == 1 and (loaded[1]["params"] == arrays_of(1, 1)["params"]).all()
    assert [damage.path.name for damage in skipped] == ["step-00000002"] and words in skipped[0].why


def test_no_checkpoint_is_whole(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        cut(tmp_path / f"step-0000000{step}" / "rank-00000.safetensors")
    with pytest.raises(SharedError, match=r"no checkpoint .* is whole: .*2 is damaged .*1 is damaged"):
        load(tmp_path, skip=True)


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    save(tmp_path, 1)
    rewrite(tmp_path / "step-00000001", format=99, mpidp="7.3")
    for skip in (False, True):
        with pytest.raises(UserError, match=r"format 99, written by mpidp 7\.3; this is mpidp \d.*up to 2"):
            load(tmp_path, skip=skip)


def test_the_older_format_is_read(tmp_path):
    save(tmp_path, 1)
    rewrite(tmp_path / "step-00000001", format=1, mpidp=None, options=None)
    assert load(tmp_path)[0] == 1


UNLIKELY = {
    "format": [0, -1, 1.0, True, "2", [], {}],
    "step": [2, -1, 1.0, float("nan"), "1", True, 10**30, [1]],
    "ranks": [0, -3, 10**9, "2", None, {}],
    "files": [
        [], 3, {"rank-00000.safetensors": 3}, {"../../etc/passwd": "0" * 64}, {"rank-00002.safetensors": "0" * 64},
        {"rank-0.safetensors": ""}, {"": ""},
    ],
    "collective": [3, ["ring"]],
    "validation_loss_before": ["0", [], {}, 10**400, 3],
    "last": [3, []],
    "diagnostics": [3, "noise"],
    "options": [3, "lr"],
    "numbers": [3, [1]],
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKELY)
def test_a_sealed_manifest_that_none_of_ours_would_write(tmp_path, name):
    save(tmp_path, 1)
    for value in UNLIKELY[name]:
        rewrite(tmp_path / "step-00000001", **{name: value})
        with pytest.raises(UserError, match="is damaged"):
            load(tmp_path)


def test_another_run_s_is_refused_by_all_ranks(tmp_path):
    save(tmp_path, 1)

    def refuse(path, manifest):
        raise UserError(f"step {manifest['step']} is of another run")

    with pytest.raises(SharedError, match="step 1 is of another run"):
        load(tmp_path, skip=True, refuse=refuse)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no complete checkpoint"):
        load(tmp_path / "nothing")


def test_a_folder_that_cannot_be_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be read: Not a directory"):
        load(tmp_path / "file")


def test_other_names_in_the_folder_do_not_matter(tmp_path):
    save(tmp_path, 1)
    for name in ("step-00000009.bak", "step-backup", "notes"):
        (tmp_path / name).mkdir()
    assert load(tmp_path)[0] == 1
    assert "notes" in names(tmp_path)


def test_steps_of_more_digits_come_later(tmp_path):
    save(tmp_path, 99_999_999, 100_000_000)
    assert load(tmp_path)[0] == 100_000_000
