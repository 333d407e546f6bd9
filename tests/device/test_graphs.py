"""Forward and backward as CUDA graphs: the bits of the plain way, messages in the same order, and a way back."""

import numpy as np
import pytest

from mpidp.data import Schema
from mpidp.models import MODELS
from tests.launch import run_alone
from tests.on_device.models import TOKENS, samples

CASES = {
    "mlp": ({"hidden": "8,8"}, Schema("classes", (20,), 3)),
    "gpt": ({"layers": 2, "heads": 2, "width": 16, "context": 8, "dropout": 0.2}, TOKENS),
}


def trained(cupy, name, graphs, operands=None, cuts=(), say=None):
    """What ten steps leave, every other one of a smaller batch: bits, and what was announced; the model."""
    from mpidp.nn import replay
    from mpidp.nn.kernels.cublas import CublasProducts

    options, schema = CASES[name]
    products = CublasProducts(cupy, "GPU 0", operands)
    model = MODELS[name].build(MODELS[name].Options(**options), schema, np.dtype("f4"))
    params, grads = cupy.zeros(model.size, "f4"), cupy.zeros(model.size, "f4")
    model.bind(params, grads, products)
    model.initialise(0)
    if graphs:
        model.replay = replay.Replay(model, products, say or pytest.fail)
    left, announced = [], []
    for t in range(1, 11):
        count = 3 if t % 2 else 4
        x, y = samples(schema, np.float32, 4)
        rng = np.random.default_rng(t)
        x, y = (rng.permuted(part, axis=0)[:count] for part in (x, y))
        announced.append([])
        loss = model.gradients(
            x, y, 1 / count, lambda lo, hi: announced[-1].append((lo, hi)), key=(0, t), cuts=cuts
        )
        params -= np.float32(0.1) * grads
        left += [loss.get().tobytes(), grads.get().tobytes()]
    return [*left, params.get().tobytes()], announced, model


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("operands", [None, "bfloat16"])
@pytest.mark.parametrize("cuts", [(), (2,)])
def test_graphs_leave_the_same_bits(cupy, name, operands, cuts):
    plain, _, _ = trained(cupy, name, False, operands, cuts)
    graphs, announced, model = trained(cupy, name, True, operands, cuts)
    assert graphs == plain and not model.replay.why and model.replay.captured
    assert announced[-1] == [(0, model.size)]  # one graph: less than SEGMENT elements


def test_slices_are_announced_between_graphs_in_order(cupy, monkeypatch):
    from mpidp.nn import replay

    monkeypatch.setattr(replay, "SEGMENT", 500)
    plain, every, _ = trained(cupy, "gpt", False)
    graphs, announced, model = trained(cupy, "gpt", True)
    assert graphs == plain
    assert 1 < len(announced[-1]) < len(every[-1])
    ends = {hi for _, hi in every[-1]}
    assert all(hi in ends for _, hi in announced[-1])
    assert [hi for _, hi in announced[-1]] == [model.size, *(lo for lo, _ in announced[-1][:-1])]
    assert announced[-1][-1][0] == 0


def test_between_is_called_after_each_graph(cupy):
    _, _, model = trained(cupy, "mlp", True)
    called = []
    x, y = samples(CASES["mlp"][1], np.float32, 4)
    model.gradients(
        x, y, 1 / 4, lambda lo, hi: called.append("ready"), between=lambda: called.append("between")
    )
    assert called == ["ready", "between", "between"]


def test_what_cannot_be_captured_is_said_once_and_launched_as_ever(cupy, monkeypatch):
    from mpidp.nn.kernels.cublas import CublasProducts
    from mpidp.nn.kernels.products import Products

    plain, every, _ = trained(cupy, "mlp", False)
    monkeypatch.setattr(CublasProducts, "capturable", Products.capturable)
    said = []
    graphs, announced, model = trained(cupy, "mlp", True, say=said.append)
    assert graphs == plain and announced == every and not model.replay.captured
    assert len(said) == 1 and "calling cuBLAS API during stream capture" in said[0]


def test_the_option_means_nothing_on_the_host(tmp_path):
    done = run_alone(["-m", "mpidp.train", "--cuda-graph", "off", "--run-dir", str(tmp_path / "run")])
    assert done.returncode == 2 and "--cuda-graph off is about launches on a GPU" in done.stderr
