"""On a device the host waits once in a step, after backward, and still sees what is not finite before the update."""

import json

import pytest

from tests.device.test_train import STAND_IN
from tests.launch import run_ranks
from tests.numbers.poison import RANK, STEP, TINY

GPT = {"model": "gpt", "layers": 1, "heads": 2, "width": 16, "context": 16, "dropout": 0.1, "steps": 4,
       "validation-fraction": 0.001, "batch-size": 4, "micro-batch": 2, "log-every": 2}  # fmt: skip


def trained(folder, ranks, options):
    """What tests.device.waits prints of such a run."""
    done = run_ranks(
        1, ["-m", "tests.device.waits", folder, ranks, json.dumps(options)], env=STAND_IN
    ).check()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("options", [GPT, TINY | {"clip": 0.5, "on-nonfinite": "skip"}], ids=["gpt", "mlp"])
def test_one_wait_in_a_step(tmp_path, options):
    (waits,) = trained(tmp_path, 1, options | {"device": "cuda"})["waits"]
    assert len(waits) == options["steps"] and set(waits[1:]) == {1}


@pytest.mark.parametrize("policy", [{}, {"on-nonfinite": "skip"}], ids=["abort", "skip"])
def test_what_is_not_finite_is_told_as_on_the_host(tmp_path, policy):
    options = TINY | {"poisoned": True, "collective": "ring", "clip": 0.1} | policy
    host, device = (trained(tmp_path / d, 2, options | {"device": d}) for d in ("cpu", "cuda"))
    if not policy:
        assert f"the loss on rank {RANK} is not finite at step {STEP}: first the input" in host["error"]
        assert device["error"] == host["error"]
    else:
        assert device["skipped"] == host["skipped"] == [STEP]
        assert device["validation_loss"] == pytest.approx(host["validation_loss"], rel=1e-5)
