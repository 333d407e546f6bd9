"""What an encoding is refused with, each in one clear line; and whole runs, stopped and resumed."""

import json

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.commandline import parse
from mpidp.compression import COMPRESSORS, PLAIN, Place
from mpidp.config import resolve
from mpidp.data import Schema
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.train import run


def config(*arguments):
    given, file, preset = parse([str(argument) for argument in arguments])
    return resolve(file | given, preset)


REFUSED = {
    "nothing is sent": (["fp16", "--sync", "none"], "--sync none sends nothing while it trains"),
    "no size": (["sign", "--sync", "averaging"], "--sync averaging: a vote on the change of a parameter has no size"),
    "no gradient": (["dgc", "--sync", "averaging", "--optimizer", "sgd"], "gathers the momentum of gradients"),
    "a chunk of the momentum": (["onebit-adam", "--sync", "sharded"], "the whole momentum"),
    "the default optimizer": (["dgc"], "wants --optimizer sgd without --momentum"),
    "two momenta": (["dgc", "--optimizer", "sgd", "--momentum", 0.9], "has the momentum itself"),
    "not Adam": (["onebit-adam", "--optimizer", "sgd"], "wants --optimizer adamw"),
    "no messages": (["int8", "--collective", "shared"], "shared sends no messages of its own that could be encoded"),
    "the library's messages": (["topk", "--collective", "mpi"], "mpi sends no messages of its own"),
    "sums on the way": (["onebit", "--collective", "ring"], "ring adds up on the way"),
    "what to take instead": (["onebit", "--collective", "tree"], "choose pairwise or auto"),
    "no buckets": (["powersgd", "--bucket-mib", 2], "looks at the whole gradient"),
    "no norm": (["sign", "--clip", 1], "--clip: what --compress sign delivers"),
    "no share": (["topk", "--density", 0], "--density 0.0: must be more than 0"),
    "more than all": (["randomk", "--density", 1.5], "--density 1.5: must be at most 1"),
    "no level": (["qsgd", "--levels", 0], "--levels 0: must be at least 1"),
    "too many levels": (["qsgd", "--levels", 128], "--levels 128: must be at most 127"),
    "no column": (["powersgd", "--rank", 0], "--rank 0: must be at least 1"),
    "half a byte": (["int8", "--block", 100], "--block 100: must be a multiple of 8"),
    "of another": (["int8", "--rank", 2], "--rank is used by --compress powersgd; this run has --compress int8"),
    "of none": (["none", "--density", 1], "by --compress topk|randomk|dgc; this run has --compress none"),
    "no feedback to leave out": (["sign", "--no-error-feedback"], "--error-feedback is used by"),
    "unknown": (["fp61"], "did you mean fp16?"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REFUSED)
def test_refused(mistake):
    arguments, words = REFUSED[mistake]
    with pytest.raises(UserError) as error:
        config("--compress", *arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_default_limit_on_the_norm_goes_where_there_is_no_norm():
    assert config().run.clip == 1.0
    assert config("--compress", "onebit-adam").run.clip is None
    assert config("--compress", "topk").run.clip == 1.0


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("linear", {}, "two of --rank 2 (not even weight, 10 x 1): choose another encoding"),
        ("mlp", {"rank": 400}, "give --rank 127 or less"),
    ],
)
def test_power_iteration_needs_a_matrix_that_pays(model, options, words):
    kind = MODELS[model]
    schema = Schema("values", (10,), 1) if model == "linear" else Schema("classes", (10,), 3)
    built = kind.build(kind.Options(), schema, np.float32)

    def body(comm):
        place = Place(comm, COLLECTIVES["ring"], built.size, np.dtype(np.float32), np, built.parameters)
        with pytest.raises(UserError) as error:
            COMPRESSORS["powersgd"].make(place, COMPRESSORS["powersgd"].Options(**options))
        return str(error.value)

    assert words in run_ranks(1, body)[0]


@pytest.mark.parametrize("encoding", ["topk", PLAIN])
def test_a_run_that_is_stopped_and_resumed_has_the_same_bits(encoding, tmp_path):
    """Each rank's residual is in a file of its own, the parameters once."""
    common = [
        "--model",
        "linear",
        "--samples",
        60,
        "--batch-size",
        20,
        "--compress",
        encoding,
        "--collective",
        "ring",
    ]

    def train(name, *arguments):
        everything = [*common, "--run-dir", tmp_path / name, *arguments]
        assert run_ranks(2, run, [str(argument) for argument in everything]) == [0, 0]
        return json.loads((tmp_path / name / "summary.json").read_text())

    whole = train("whole", "--steps", 8)
    train("run", "--steps", 4, "--checkpoint-every", 4)
    files = [path.name for path in (tmp_path / "run" / "checkpoints" / "step-00000004").iterdir()]
    assert ("rank-00001.safetensors" in files) == (encoding != PLAIN)
    resumed = train("run", "--resume", "--steps", 8)
    assert whole["compress"] == resumed["compress"] == encoding
    assert whole["params_sha256"] == resumed["params_sha256"]
    assert whole["bytes_sent"][0] < 10_000
