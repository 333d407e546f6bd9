"""The train program over MPI, its ranks sharing the GPUs there are: the loss curve is that of the host."""

import json

import pytest

from tests.launch import run_ranks
from tests.on_device.programs import GPT, MLP

RUNS = {
    "auto": MLP,
    "shared": [*MLP, "--collective", "shared"],
    "staged": [*MLP, "--collective", "ring", "--clip", 0.5],
    "sharded": [*MLP, "--sync", "sharded", "--collective", "ring"],
    "server": [*MLP, "--sync", "server"],
    "diloco": [*MLP, "--sync", "averaging", "--period", 3, "--collective", "ring"],
    "text": [*GPT, "--collective", "ring"],
}


def curve(folder, options) -> list[float]:
    run_ranks(4, ["-m", "mpidp.train", *options, "--run-dir", folder], timeout=110, cwd=folder.parent).check()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train_loss"] for line in lines if "train_loss" in line]


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_curve_is_that_of_the_host(tmp_path, name):
    (tmp_path / "tiny.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    host, device = (curve(tmp_path / d, [*RUNS[name], "--device", d]) for d in ("cpu", "cuda"))
    assert len(host) == 8 and device == pytest.approx(host, rel=1e-3)
