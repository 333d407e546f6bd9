"""`--dtype float16` and its loss scale: one S on all ranks, the same bits when resumed, and as much learned."""

import json
from itertools import pairwise

import numpy as np
import pytest

from mpidp.errors import RunError
from mpidp.numbers import loss_scale
from mpidp.numbers.loss_scale import LossScale
from tests.launch import run_ranks as launch
from tests.numbers.poison import STEP, TINY, Told, options_of, poison_a_layer, poison_a_sample, run, run_until
from tests.test_train import TINY_GPT, summary, train

HALF = TINY | {"dtype": "float16", "log-every": 1}
LEARNED = 0.01
"""On the relative difference of validation losses after 60 steps: seeds differ by more."""


def test_halves_and_doubles(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)
    scale = LossScale.of("dynamic")
    values = []
    for good in (1, 1, 0, 1, 1, 1, 1, 0, 0, 1):
        scale.went_well() if good else scale.overflowed()
        values.append(scale.value / 2**16)
    assert values == [1, 1, 0.5, 0.5, 0.5, 1, 1, 0.5, 0.25, 0.25] and scale.overflows == 3
    again = LossScale.of("dynamic")
    again.load(json.loads(json.dumps(scale.facts())))
    assert vars(again) == vars(scale)


def test_has_limits(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 1)
    scale = LossScale.of("dynamic")
    for _ in range(40):
        scale.went_well()
    assert scale.value == loss_scale.LARGEST
    while scale.can_be_less():
        scale.overflowed()
    assert scale.value == loss_scale.LEAST
    fixed = LossScale.of("1024")
    fixed.went_well()
    assert fixed.value == 1024 and not fixed.can_be_less() and not fixed.facts()
    assert LossScale.of(None).value == 1


CASES = {
    "allreduce": options_of("allreduce", 0),
    "clipped": options_of("allreduce", 1) | {"clip": 0.5, "micro-batch": 2},
    "encoded": options_of("allreduce", 0) | {"compress": "fp16"},
    "reproducible": {"reproducible": 4},
    "sharded": options_of("sharded", 1),
    "server": options_of("server", 1) | {"clip": 0.5},
    "averaging": options_of("averaging", 1),
    "gossip": options_of("gossip", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_one_scale_on_all_ranks_and_the_same_bits_when_resumed(monkeypatch, tmp_path, case):
    """From a scale at which gradients overflow; it doubles after three good steps."""
    monkeypatch.setattr(loss_scale, "START", 2.0**24)
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)
    scales = {}

    class Scaled(Told):
        def step(self, step, loss):
            super().step(step, loss)
            scales.setdefault(step.t, set()).add(self.job.numbers.scale.value)

    given = HALF | CASES[case] | {"steps": 24, "checkpoint-every": 12, "lr": 0.005}
    whole, _ = run(4, tmp_path / "whole", given, watch=Scaled)
    assert all(len(values) == 1 for values in scales.values())
    assert whole["loss_scale_overflows"] > 4 and whole["skipped_steps"] == whole["loss_scale_overflows"]
    values = [max(scales[t]) for t in range(1, 25)]
    assert whole["loss_scale"] == values[-1] < 2.0**20
    assert any(later > earlier for earlier, later in pairwise(values))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["loss_scale"] for line in lines}[23] == values[22]
    run_until(16, 4, tmp_path / "cut", given)
    again, _ = run(4, tmp_path / "cut", {}, resume=True)
    assert again["resumed_from"] == 12
    for key in ("params_sha256", "loss_scale", "loss_scale_overflows", "validation_loss"):
        assert again[key] == whole[key]


def test_reproducible_on_any_number_of_ranks(tmp_path):
    found = [run(ranks, tmp_path / str(ranks), HALF | {"reproducible": 4})[0] for ranks in (1, 2, 4)]
    assert len({facts["params_sha256"] for facts in found}) == 1


def test_gradients_are_handed_on_without_the_scale(tmp_path):
    """What is clipped and stepped with is the gradient, whatever S is, but for halves at the lower end."""
    found = [
        run(2, tmp_path / scale, HALF | {"collective": "ring", "loss-scale": scale, "clip": 0.5})[0]
        for scale in ("1024", "4096", "dynamic")
    ]
    assert max(facts["validation_loss"] for facts in found) == pytest.approx(
        min(facts["validation_loss"] for facts in found), rel=1e-5
    )


def test_a_batch_that_is_bad_is_no_overflow(monkeypatch, tmp_path):
    """A loss that is not finite is not S's fault, and halving does not help."""
    poison_a_sample(monkeypatch)
    with pytest.raises(
        RunError, match=f"the loss on rank 1 is not finite at step {STEP}: first the input, of sample"
    ):
        run(3, tmp_path / "abort", HALF)
    facts, _ = run(3, tmp_path / "skip", HALF | {"on-nonfinite": "skip"})
    assert facts["skipped"] == [STEP] and facts["loss_scale"] == 2.0**16 and facts["skipped_steps"] == 1


def test_an_overflow_at_the_least_scale_is_as_any_other(monkeypatch, tmp_path):
    monkeypatch.setattr(loss_scale, "START", 2.0)
    poison_a_layer(monkeypatch, "layers.1.weight", "backward", [STEP, STEP + 1])
    with pytest.raises(RunError, match=f"the gradient on rank 1 is not finite at step {STEP + 1}: first"):
        run(3, tmp_path, HALF)


@pytest.mark.parametrize("options", [options_of("onesided", 0), options_of("server", 4)], ids=str)
def test_a_scale_that_does_not_change_goes_with_ranks_that_run_apart(monkeypatch, tmp_path, options):
    facts, _ = run(4, tmp_path / "run", HALF | options | {"loss-scale": "256"})
    assert np.isfinite(facts["validation_loss"]) and "loss_scale" not in facts
    poison_a_layer(monkeypatch, "layers.1.weight", "backward")
    with pytest.raises(RunError, match="the gradient on rank 1 is not finite"):
        run(4, tmp_path / "bad", HALF | options | {"loss-scale": "256"})


def test_float16_learns_what_float32_learns(tmp_path):
    common = [*TINY_GPT[:-1], 60, "--lr", "1e-2", "--json"]
    reached = {}
    for dtype in ("float32", "float16"):
        args = train(*common, "--dtype", dtype, "--run-dir", tmp_path / dtype)
        reached[dtype] = summary(launch(2, args))
    plain, half = reached.values()
    assert half["validation_loss"] < half["validation_loss_before"] - 1
    assert half["validation_loss"] != plain["validation_loss"]
    assert half["validation_loss"] == pytest.approx(plain["validation_loss"], rel=LEARNED)
