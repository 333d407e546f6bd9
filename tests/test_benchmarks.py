"""The pure parts of the benchmarks, and that they start: nothing is timed here."""

import dataclasses
import json
import socket
import threading

import numpy as np
import pytest

from benchmarks import cases, results, worker
from benchmarks.contest import samples_per_second
from benchmarks.environment import environment
from mpidp.building import make_split
from mpidp.data import Request, load
from tests.launch import run_alone


def test_help():
    finished = run_alone(["-m", "benchmarks.train_throughput", "--help"]).check()
    assert "--cases" in finished.stdout and "tiny,small,medium,mlp,cnn,linear" in finished.stdout


def test_an_unknown_case_is_refused():
    finished = run_alone(["-m", "benchmarks.train_throughput", "--cases", "tiny,huge"])
    assert finished.returncode == 2
    assert "huge: known are tiny" in finished.stderr


def test_flops_of_dense_layers():
    assert cases.dense_flops([10, 1]) == 40  # forward and dW, 2 operations a weight each
    assert cases.dense_flops([784, 512, 512, 10]) == 4 * 784 * 512 + 6 * (512 * 512 + 512 * 10)
    assert cases.dense_flops([7, 5], first=False) == 6 * 35


def test_flops_of_gpt_are_those_of_its_products():
    layers, width, tokens, vocabulary = 3, 8, 5, 11
    forward = 0
    for _ in range(layers):
        for a, b in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
            forward += 2 * tokens * a * b
        for t in range(tokens):  # t + 1 scores, and as many values added up
            forward += 2 * 2 * (t + 1) * width
    forward += 2 * tokens * width * vocabulary
    assert cases.gpt_flops(layers, width, tokens, vocabulary) == 3 * forward


def test_flops_of_convolutions():
    first, second = 2 * 64 * 9 * 1 * 3, 2 * 16 * 9 * 3 * 4  # 8 x 8 places, then 4 x 4
    dense = 2 * (2 * 2 * 4) * 10
    assert cases.cnn_flops(8, [3, 4], [10]) == 2 * first + 3 * second + 3 * dense


def test_rates_of_ranks():
    assert samples_per_second(100, [2.0, 4.0], independent=False) == 50  # 200 samples in 4 s
    assert samples_per_second(100, [2.0, 4.0], independent=True) == 75


def test_ratio_is_of_the_same_round():
    assert results.ratio([10, 20, 60], [5, 10, 20]) == 2  # the quotients are 2, 2 and 3
    assert results.spread([9, 10, 12]) == pytest.approx(0.3)


def case(**mpidp):
    """A measured case with two PyTorch sides and one that failed."""
    base = {
        "alone_samples_per_second": [60.0, 50.0, 40.0],
        "peak_mib": 100.0,
        "share_mib": 80.0,
        "startup_s": [3.0, 1.0, 2.0],
    }
    sides = {
        "mpidp": base | {"samples_per_second": [60.0, 45.0, 40.0], "sgemm_gflops": [200, 210, 220]} | mpidp,
        "PyTorch": base | {"samples_per_second": [30.0, 30.0, 20.0], "sgemm_gflops": [240, 250, 300]},
        "PyTorch channels_last": base | {"samples_per_second": [40.0, 45.0, 40.0]},
        "PyTorch compile": {"failed": "no compiler"},
    }
    return {"about": "", "flops_per_sample": 10**9, "tokens_per_sample": 8, "sides": sides}


def test_summary_and_table():
    record = {"x": case()}
    assert results.sgemm_peak(record) == 250
    summary = results.summarise(record)["x"]
    assert summary["mpidp"] == {
        "tokens_per_second": 360.0,
        "samples_per_second": 45.0,
        "spread": pytest.approx(20 / 45),
        "mpidp_ratio": 1.0,
        "flop_utilisation": pytest.approx(45 / 250),
        "together_ratio": 1.0,
        "peak_mib": 100.0,
        "share_mib": 80.0,
        "startup_s": 2.0,
    }
    assert summary["PyTorch"]["mpidp_ratio"] == 2.0
    assert results.best_torch(summary, compiled=False) == "PyTorch channels_last"
    assert results.best_torch(summary, compiled=True) is None
    lines = results.rows({"x": summary})
    assert {len(line) for line in lines} == {len(results.HEADERS)}
    assert [line[1] for line in lines][2] == "PyTorch channels_last (best)"
    assert results.markdown(lines).count("\n") == len(lines) + 2


@pytest.mark.parametrize("name", list(cases.cases()))
def test_every_case_is_one_that_mpidp_takes(name, tmp_path):
    """Its options hold together, and its data give every rank the case's batch in each of the global batches."""
    whole = cases.cases()[name]
    small = dataclasses.replace(whole, batch=2)
    cases.write_data(small, 2, tmp_path)
    config = cases.configured(cases.arguments(small, 2, tmp_path))
    assert config.run.clip is None and config.run.batch_size == 4
    context = getattr(config.model, "context", None)
    request = Request(np.float32, config.run.seed, context, config.run.validation_fraction)
    data = load(config.run.data, config.data, request)
    split = make_split(config, data, 2)
    assert split.steps_per_epoch >= cases.BATCHES
    for turn in range(cases.BATCHES):
        x, _ = data.train.batch(split.part(0, turn, 1)[0])
        assert x.shape == (2, *data.schema.inputs)
    if whole.inputs:
        assert data.schema.inputs == whole.inputs and data.schema.outputs <= whole.classes


def test_a_worker_does_as_told_and_ends_with_the_line(tmp_path):
    path, steps = str(tmp_path / "line"), []

    def step(t):
        steps.append(t)
        return t / 2

    def serve():
        worker.serve(worker.Line(path, 3), worker.Work(step, lambda: None, lambda n: lambda: None))

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(10)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection, _ = listener.accept()
        connection.settimeout(10)
        with connection, connection.makefile("rw", encoding="utf-8") as line:
            assert json.loads(line.readline())["index"] == 3
            assert json.loads(line.readline()) == {"loss": 0.5, "about": ""}
            line.write(json.dumps({"do": "steps", "warm": 1, "count": 3, "losses": 2}) + "\n")
            line.flush()
            answer = json.loads(line.readline())
            assert answer["losses"] == [2.0, 2.5] and steps == [1, 2, 3, 4, 5]
            assert answer["seconds"] >= 0 and answer["peak_mib"] > 1 and answer["share_mib"] > 1
        thread.join(10)
        assert not thread.is_alive()


def test_the_environment_can_be_written_down():
    found = json.loads(json.dumps(environment()))
    assert found["cores"] >= 1 and found["numpy"] == np.__version__ and found["cpu"]
