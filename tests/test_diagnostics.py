"""Diagnostics: a flipped bit is found, distances and noise are what they were made, and training is not touched."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.diagnostics import rows
from mpidp.diagnostics.noise import NoiseScale
from mpidp.diagnostics.replicas import Consensus, told
from mpidp.strategies import Step
from mpidp.train import train
from mpidp.workspace import configure
from tests.crash import failing
from tests.launch import run_ranks as launch

LINEAR = ["--model", "linear", "--samples", 60, "--batch-size", 20, "--collective", "ring"]


def trained(ranks, folder, *arguments):
    """The train program with ranks as threads; its summary."""

    def body(comm):
        config, path, resumed = configure(comm, [*map(str, arguments), "--run-dir", str(folder)])
        return train(config, comm, path, resumed)

    return run_ranks(ranks, body)[0]


def lines(folder, key):
    """(step, figure) of the lines in metrics.jsonl that have it."""
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in every if key in line]


# Replicas


def test_a_flipped_bit_ends_the_run_and_names_the_rank(tmp_path):
    """On real ranks: one line, exit code 1."""
    flip = failing("job.strategy.params.view('u1')[9] ^= 1", step=6, rank=2)
    args = [*LINEAR, "--steps", 12, "--check-replicas", 4, "--run-dir", tmp_path / "run"]
    finished = launch(4, ["-c", flip, *map(str, args)])
    (line,) = [line for line in finished.stderr.splitlines() if "mpidp: error" in line]
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    assert "step 8:" in line and "rank 2 from the other 3" in line
    assert not (tmp_path / "run" / "summary.json").exists()


def test_equal_replicas_are_left_alone(tmp_path):
    checked = trained(3, tmp_path / "a", *LINEAR, "--steps", 10, "--check-replicas", 4)
    plain = trained(3, tmp_path / "b", *LINEAR, "--steps", 10)
    assert checked["replica_checks"] == 3  # the last one after the last step
    assert dict(rows(checked))["replicas"] == "equal in every bit at each of 3 checks"
    for name in ("params_sha256", "bytes_sent", "messages_sent"):
        assert checked[name] == plain[name]


def test_servers_are_not_compared_with_workers(tmp_path):
    """Each of two servers keeps its half of the parameters alone."""
    args = [
        "--model",
        "linear",
        "--samples",
        60,
        "--batch-size",
        20,
        "--steps",
        4,
        "--sync",
        "server",
        "--servers",
        2,
    ]
    assert trained(4, tmp_path / "run", *args, "--check-replicas", 1)["replica_checks"] == 4


@pytest.mark.parametrize(
    ("digests", "text"),
    [("aaa", ""), ("aba", "rank 1 from the other 2"), ("caaab", "ranks 0, 4 from the other 3"),
     ("ab", "ranks 0 / 1, none"), ("abba", "ranks 0+3 / 1+2, none")],
)  # fmt: skip
def test_who_differs(digests, text):
    assert told(digests).startswith(text) and bool(told(digests)) == bool(text)


# Consensus distance


def test_the_distance_is_that_from_the_mean_and_exactly_0_for_equals():
    vectors = 1e6 + np.random.default_rng(0).normal(size=(5, 50)).astype(np.float32)

    def body(comm, equal):
        worker = comm.rank if comm.rank < 4 else None
        strategy = SimpleNamespace(params=vectors[0 if equal else comm.rank], worker=worker)
        found = Consensus(2, 9, strategy, comm)
        return [found.after(Step(t, 1, 4, 0.1), False).get("consensus_distance") for t in (1, 2, 9)]

    exact = vectors[:4].astype(np.float64)
    expected = np.sqrt(((exact - exact.mean(axis=0)) ** 2).sum() / 4)
    for none, found, last in run_ranks(5, body, False)[:4]:
        assert none is None and found == last == pytest.approx(expected, rel=1e-6)
    assert run_ranks(5, body, True) == [[None, 0.0, 0.0]] * 4 + [[None] * 3]


def test_consensus_of_averaging_and_gossip(tmp_path):
    args = [*LINEAR, "--steps", 10, "--log-every", 5]
    period = ["--sync", "averaging", "--period", 4]
    found = trained(3, tmp_path / "a", *args, *period, "--consensus-every", 2)
    distances = dict(lines(tmp_path / "a", "consensus_distance"))
    assert list(distances) == [2, 4, 6, 8, 10] and distances[4] == distances[8] == 0 < distances[6]
    assert found["consensus_distance"] == distances[10] > 0
    assert f"{distances[10]:.3e}" in dict(rows(found))["consensus distance"]
    plain = trained(3, tmp_path / "b", *args, *period)
    for name in ("params_sha256", "bytes_sent", "messages_sent"):
        assert found[name] == plain[name]
    assert (
        trained(2, tmp_path / "c", *args, "--sync", "gossip", "--consensus-every", 10)["consensus_distance"]
        > 0
    )


# Noise scale


@pytest.mark.parametrize("counts", [[4, 4, 4], [7, 1, 0, 4]], ids=str)
def test_the_noise_scale_of_gradients_made_to_have_it(counts):
    """Sample gradients G + noise of known covariance, shards even or not, a rank without samples in some steps."""
    n, steps = 100, 400
    truth = np.random.default_rng(1).normal(size=n)
    truth *= 1.5 / np.linalg.norm(truth)  # |G|² = 2.25
    spread = np.linspace(0.1, 0.5, n)  # tr Σ = Σ spread²
    total = sum(counts)

    def body(comm):
        strategy = SimpleNamespace(grads=np.zeros(n))
        noise, rng = NoiseScale(strategy, comm), np.random.default_rng([2, comm.rank])
        shared = comm.Dup()
        for t in range(1, steps + 1):
            count = counts[(comm.rank + t) % len(counts)]
            strategy.grads[...] = (count * truth + spread * rng.normal(size=(count, n)).sum(axis=0)) / total
            noise.ready(100, n)
            noise.ready(0, 100)
            COLLECTIVES["ring"].allreduce(shared, strategy.grads, np.empty(n))
            figures = noise.after(Step(t, count, total, 0.1), logged=t % 50 == 0)
            assert bool(figures) == (t % 50 == 0)
        return figures

    figures = run_ranks(len(counts), body)
    assert all(one == figures[0] for one in figures)
    variance = (spread**2).sum()
    assert figures[0]["gradient_variance"] == pytest.approx(variance, rel=0.02)
    assert figures[0]["gradient_norm_squared"] == pytest.approx(2.25, rel=0.05)
    assert figures[0]["noise_scale"] == pytest.approx(variance / 2.25, rel=0.05)


def test_a_run_tells_its_noise_scale_also_when_it_is_resumed(tmp_path):
    plain = ["--model", "logistic", "--data", "synthetic-classes", "--samples", 60, "--batch-size", 12]
    plain += ["--steps", 21, "--split", "dirichlet", "--alpha", 0.1, "--collective", "ring"]
    args = [*plain, "--noise-scale", "--checkpoint-every", 7]
    plain = trained(3, tmp_path / "plain", *plain)
    whole = trained(3, tmp_path / "whole", *args)
    for name in ("params_sha256", "bytes_sent", "messages_sent"):
        assert whole[name] == plain[name]
    trained(3, tmp_path / "cut", *args, "--steps", 14)
    again = trained(3, tmp_path / "cut", "--resume", "--steps", 21)
    assert again["resumed_from"] == 14
    for name in ("noise_scale", "gradient_variance", "gradient_norm_squared"):
        assert again[name] == whole[name] > 0
    buckets = trained(3, tmp_path / "buckets", *args, "--bucket-mib", 1e-5)  # summed while others are to come
    assert buckets["messages_sent"] > whole["messages_sent"]
    assert buckets["noise_scale"] == pytest.approx(whole["noise_scale"], rel=1e-3)
    assert lines(tmp_path / "cut", "noise_scale")[-1] == (21, whole["noise_scale"])
    assert dict(rows(whole))["noise scale"].endswith("this run has 12")


def test_nothing_but_noise_has_no_scale():
    noise = NoiseScale(SimpleNamespace(grads=np.zeros(1)), None)
    assert noise.summary() == {}
    noise.add(8, mean=1.0, parts=[2.0])  # one rank alone tells nothing
    assert noise.summary() == {}
    noise.add(8, mean=1.0, parts=[2.0, 2.0])
    assert noise.summary()["noise_scale"] is None and noise.summary()["gradient_norm_squared"] < 0
    assert "noise so far" in dict(rows(noise.summary() | {"batch_size": 8}))["noise scale"]


REFUSED = {
    "replicas that differ": (2, ["--check-replicas", 5, "--sync", "averaging"], "take --consensus-every N"),
    "replicas that are equal": (2, ["--consensus-every", 5], "take --check-replicas N"),
    "no mean gradient": (2, ["--noise-scale", "--sync", "sharded"], "take --sync allreduce"),
    "an encoded mean": (2, ["--noise-scale", "--compress", "fp16"], "as --compress fp16 delivers it"),
    "one rank": (1, ["--noise-scale"], "mpirun -n 2"),
    "never": (2, ["--check-replicas", 0], "--check-replicas 0: must be at least 1"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_means_nothing_is_refused(tmp_path, mistake):
    ranks, args, words = REFUSED[mistake]
    with pytest.raises(SharedError, match=words):
        trained(ranks, tmp_path / "run", *LINEAR, *args)
    assert not (tmp_path / "run").exists()
