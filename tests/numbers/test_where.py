"""Where numbers went bad: layers by their names, samples by their numbers, and nothing bad sent."""

import numpy as np
import pytest

from mpidp.building import Job
from mpidp.data import Schema
from mpidp.errors import RunError
from mpidp.models import MODELS
from mpidp.numbers import where
from mpidp.numbers.finite import BLOCK, finite
from tests.numbers.poison import RANK, STEP, TINY, poison_a_layer, poison_a_sample, run

GPT = {"model": "gpt", "layers": 2, "heads": 2, "width": 16, "context": 8, "batch-size": 4}
CNN = {"model": "cnn", "data": "digits", "channels": "4,8", "batch-size": 8, "dropout": 0.0}
SHORT = {"steps": 2, "log-every": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite(dtype):
    vector = np.full(2 * BLOCK + 5, 1e30, dtype)  # whose square overflows in float32
    assert finite(vector[:0]) and finite(np.zeros(3, dtype))
    with np.errstate(over="ignore"):
        assert finite(vector)
        for place in (0, BLOCK - 1, -1):
            for value in (np.nan, np.inf, -np.inf):
                other = np.ones(len(vector), dtype)
                other[place] = vector[place] = value
                assert not finite(other) and not finite(vector)
                vector[place] = 1e30


@pytest.mark.parametrize(
    ("given", "tensor", "spot", "words"),
    [
        (GPT, "wte.weight", "forward", "the output of wte (TiedOutput)"),
        (GPT, "h.1.ln_1.weight", "forward", "the output of h.1.ln_1 (LayerNorm)"),
        (GPT, "h.1.attn.c_proj.weight", "forward", "the output of h.1.attn.c_proj (Linear)"),
        (GPT, "h.0.mlp.c_fc.weight", "forward", "the output of h.0.mlp.c_fc (Linear)"),
        (GPT, "h.0.mlp.c_proj.weight", "backward", "the gradient of the input of h.0.mlp.c_proj (Linear)"),
        (GPT, "h.1.ln_2.weight", "gradient", "the gradient of h.1.ln_2.weight"),
        (GPT, "ln_f.weight", "backward", "the gradient of the input of ln_f (LayerNorm)"),
        (TINY, "layers.0.weight", "forward", "the output of layers.0 (Linear)"),
        (TINY, "layers.1.weight", "backward", "the gradient of the input of layers.1 (Linear)"),
        (TINY, "layers.0.weight", "gradient", "the gradient of layers.0.weight"),
        (CNN, "conv.1.weight", "forward", "the output of conv.1 (Conv2d)"),
        (CNN, "conv.1.bias", "forward", "the output of conv.1 (Bias)"),
        (CNN, "conv.0.weight", "gradient", "the gradient of conv.0.weight"),
        (CNN, "dense.0.weight", "backward", "the gradient of the input of dense.0 (Linear)"),
    ],
)
def test_the_layer_is_named(monkeypatch, tmp_path, given, tensor, spot, words):
    poison_a_layer(monkeypatch, tensor, spot, steps=[2], rank=0)
    with pytest.raises(RunError) as error:
        run(1, tmp_path, given | SHORT)
    what = "loss" if spot == "forward" else "gradient"
    assert str(error.value).startswith(
        f"the {what} on rank 0 is not finite at step 2: first {words}, by samples "
    )


@pytest.mark.parametrize(
    "extra", [{}, {"micro-batch": 2}, {"micro-batch": 2, "on-nonfinite": "skip"}], ids=str
)
def test_the_samples_are_named(monkeypatch, tmp_path, extra):
    """An overflow in a layer, of two samples of the batch."""
    indices = {}
    batch = Job.batch

    def bad(job, t):
        step, x, y, slots = batch(job, t)
        if t == STEP and job.comm.rank == RANK:
            x = x.copy()
            x[2:4] = 1e38 * np.sign(job.model.params[:3])
            indices["all"] = np.concatenate([found for found, _ in job.parts(t)]).tolist()
        return step, x, y, slots

    monkeypatch.setattr(Job, "batch", bad)
    given = TINY | extra | {"dropout": 0.0, "lr": 1e-3, "model": "linear", "hidden": None}
    del given["hidden"], given["dropout"]
    if "on-nonfinite" in extra:
        facts, _ = run(3, tmp_path, given)
        assert facts["skipped"] == [STEP]
        return
    with pytest.raises(RunError) as error:
        run(3, tmp_path, given)
    two = indices["all"][2:4]
    assert f", by samples {two[0]}, {two[1]}; samples of this rank: " in str(error.value)
    assert f"(4 from {min(indices['all'])} to {max(indices['all'])})" in str(error.value)


@pytest.mark.parametrize(
    "options", [{"sync": "allreduce", "bucket-mib": 1e-5}, {"sync": "sharded", "stage": 2}], ids=str
)
@pytest.mark.parametrize("policy", ["abort", "skip"])
def test_nothing_bad_is_handed_to_the_strategy(monkeypatch, tmp_path, options, policy):
    """Where the gradient of the first layer is bad, which is announced last."""
    poison_a_layer(monkeypatch, "layers.0.weight", "gradient")
    told, ready = [], Job.ready

    def noted(job, lo, hi):
        assert finite(job.model.grads[lo:hi])
        told.append((job.comm.rank, lo, hi))
        ready(job, lo, hi)

    monkeypatch.setattr(Job, "ready", noted)
    given = TINY | options | {"on-nonfinite": policy, "steps": STEP}
    if "stage" not in options:
        given["collective"] = "ring"
    if policy == "abort":
        with pytest.raises(RunError, match=r"first the gradient of layers.0.weight"):
            run(2, tmp_path, given)
        assert [lo for rank, lo, _ in told if rank == RANK][-1] > 0
    else:
        run(2, tmp_path, given)
        assert told.count((RANK, 0, 31)) == STEP - 1


def test_what_cannot_be_repeated_is_said(monkeypatch, tmp_path):
    seen = []
    batch = Job.batch

    def bad(job, t):
        step, x, y, slots = batch(job, t)
        if t == STEP and job.comm.rank == RANK and not seen:
            seen.append(t)
            x = x * np.nan
        return step, x, y, slots

    monkeypatch.setattr(Job, "batch", bad)
    with pytest.raises(RunError, match="nothing when the step was made again: a fault of memory"):
        run(2, tmp_path, TINY)


def test_layers_without_tensors_have_names_too():
    model = MODELS["mlp"].build(
        MODELS["mlp"].Options(hidden="4"), Schema("classes", (2, 2, 1), 3), np.float32
    )
    assert list(where.layer_names(model).values()) == [
        "Flatten behind the input", "layers.0 (Linear)", "ReLU behind layers.0", "layers.1 (Linear)"
    ]  # fmt: skip


def test_samples_in_words():
    assert where.some([4]) == "sample 4"
    assert where.some([4, 5, 6, 7]) == "samples 4, 5, 6, ..."
    assert where.range_of(np.array([9, 3])) == "9, 3 (2 from 3 to 9)"
    assert where.range_of(np.array([], int)) == "no samples"


def test_a_sample_is_named_under_a_split_that_scatters(monkeypatch, tmp_path):
    poison_a_sample(monkeypatch)
    with pytest.raises(RunError, match=r"first the input, of sample \d+; samples of this rank"):
        run(3, tmp_path, TINY | {"split": "hash"})
