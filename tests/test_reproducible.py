"""`--reproducible M`: the same bits on any number of ranks that divides M."""

import json

import pytest

from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.train import train
from mpidp.workspace import configure
from tests import launch
from tests.test_config import config, refused

GPT = (
    "--layers 1 --heads 2 --width 16 --context 16 --vocabulary 256 --batch-size 16 --steps 20 --dropout 0.1 --clip 0.2 "
    "--validation-fraction 0.01 --lr 0.01 --timeout 60 --blas numpy"
).split()
SAME = ("params_sha256", "train_loss", "validation_loss", "validation_loss_before", "accuracy")


def run(ranks: int, folder, *arguments) -> list:
    """What must not depend on the number of ranks, of a run on so many threads."""
    arguments = [*map(str, arguments), "--run-dir", str(folder)]

    def body(comm):
        config, where, resumed = configure(comm, arguments)
        return train(config, comm, where, resumed)

    facts = run_ranks(ranks, body)[0]
    assert facts["ranks"] == len(facts["shard_sizes"]) == ranks
    return [facts.get(name) for name in SAME]


def test_a_gpt_on_1_2_4_and_8_ranks(tmp_path):
    """With AdamW, clipping and dropout; ranks as threads and as processes; the losses of all logged steps as well."""
    args = [*GPT, "--reproducible", 8]
    runs = {ranks: run(ranks, tmp_path / str(ranks), *args) for ranks in (1, 2, 4, 8)}
    assert runs[1] == runs[2] == runs[4] == runs[8]
    assert run(2, tmp_path / "other", *GPT, "--reproducible", 4)[0] != runs[1][0]
    real = ["-m", "mpidp.train", *map(str, args), "--run-dir", tmp_path / "real", "--json"]
    facts = json.loads(launch.run_ranks(4, real).check().stdout.splitlines()[-1])
    assert [facts.get(name) for name in SAME] == runs[1]
    assert facts["collective"] == "halving-doubling" and facts["reproducible"] == 8
    losses = [
        [
            json.loads(line)["train_loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("1", "8", "real")
    ]
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 2


MLP = (
    "--model mlp --data synthetic-classes --features 5 --classes 3 --samples 61 --hidden 32,32 --batch-size 16 "
    "--epochs 3 --schedule constant --bucket-mib 0.001 --timeout 60 --blas numpy"
).split()


@pytest.mark.parametrize("split", ["contiguous", "strided", "dirichlet", "hash"])
def test_uneven_and_empty_micro_shards(tmp_path, split):
    """61 samples: the last batch of an epoch has 13, and owner-based splits leave shards empty; in small buckets."""
    args = [*MLP, "--split", split, "--reproducible", 8]
    runs = [run(ranks, tmp_path / str(ranks), *args) for ranks in (1, 2, 8)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(("before", "after"), [(4, 2), (4, 8), (1, 4)])
def test_resumed_on_another_number_of_ranks(tmp_path, before, after):
    args = [*MLP, "--optimizer", "sgd", "--momentum", 0.9, "--reproducible", 8, "--checkpoint-every", 5]
    whole = run(4, tmp_path / "whole", *args)
    length = args.index("--epochs")
    run(before, tmp_path / "cut", *args[:length], "--steps", 5, *args[length + 2 :])
    assert run(after, tmp_path / "cut", *args, "--resume") == whole


def test_ranks_that_do_not_divide_it(tmp_path):
    for ranks in (3, 16):
        with pytest.raises(SharedError, match=f"{ranks} ranks cannot share evenly: start 1, 2, 4, 8 ranks"):
            run(ranks, tmp_path / "run", *GPT, "--reproducible", 8)


def test_what_would_have_bits_depend_on_ranks_is_refused():
    assert "must be a power of two, such as 4" in refused("--reproducible", 6)
    assert "take 24 or 32" in refused("--reproducible", 8, "--batch-size", 30)
    assert "take 64" in refused("--reproducible", 64, "--batch-size", 30)
    assert "--collective ring: --reproducible 8 adds in" in refused(
        "--reproducible", 8, "--collective", "ring"
    )
    assert "--threads 2" in refused("--reproducible", 8, "--threads", 2)
    assert "works on 4 sample(s) at a time" in refused(
        "--reproducible", 4, "--micro-batch", 2, "--batch-size", 16
    )
    for sync in ("sharded", "server", "averaging", "adasum", "none"):
        assert f"goes with --sync allreduce alone: --sync {sync}" in refused(
            "--reproducible", 8, "--sync", sync
        )
    assert "--compress fp16" in refused("--reproducible", 8, "--compress", "fp16")
    chosen = config("--reproducible", 8).run
    assert (chosen.collective, chosen.blas) == ("halving-doubling", "numpy")  # nothing that is measured
    assert config("--reproducible", 8, "--blas", "mkl").run.blas == "mkl"
